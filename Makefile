# Every target is one line over scripts/, so that a machine without make runs those.
.PHONY: setup demo test check benchmarks lock clean
setup: ; @scripts/setup
demo: ; @scripts/demo
test: ; @scripts/test
check: ; @scripts/check
benchmarks: ; @scripts/benchmarks
lock: ; @scripts/lock
clean: ; @rm -rf .venv .demo
