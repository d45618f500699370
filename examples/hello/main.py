"""A web app that asks a model of the same project, with nothing to set up: Bastide tells it where and with which key."""

import os

import httpx
from fastapi import FastAPI

app = FastAPI()


@app.get("/health")
def health() -> dict[str, bool]:
    return {"well": True}


@app.get("/ask")
def ask(question: str, model: str = "chat") -> dict[str, str]:
    answer = httpx.post(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        headers={"Authorization": "Bearer " + os.environ["BASTIDE_API_KEY"]},
        json={"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 40},
        timeout=60,
    )
    return {"answer": answer.raise_for_status().json()["choices"][0]["message"]["content"]}
