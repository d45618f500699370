# Every target is one line over scripts/, so that a machine without make runs those.
.PHONY: setup demo test test-isolation check benchmarks evaluate lock clean
setup: ; @scripts/setup
demo: ; @scripts/demo
test: ; @scripts/test
test-isolation: ; @scripts/test-isolation
check: ; @scripts/check
benchmarks: ; @scripts/benchmarks
evaluate: ; @scripts/evaluate
lock: ; @scripts/lock
clean: ; @rm -rf .venv .demo
