# The README's commands. Each target can be run alone, in a fresh clone.

.PHONY: run test check bench pyz clean

run:
	python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/python -m chatbot --demo

test:
	python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest

# Everything that a change is held to, on a machine of its own: see .ci/run.
check:
	.ci/run

bench:
	python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m tests.bench

pyz:
	rm -rf build && python3 -m pip install -q --no-compile --target build/app --only-binary=:all: --platform any . typing_extensions
	python3 tools/pyz.py build/app chatbot.pyz

clean:
	rm -rf .venv build dist *.egg-info chatbot.pyz .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
