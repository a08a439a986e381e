# Everything runs in this repository's own folders: .tools/ has uv, .venv/ what uv installs, build/ what is rendered.
.DEFAULT_GOAL := help
UV := .tools/bin/uv
.PHONY: help demo test test-quick test-changed bench lint render clean

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

demo: .tools/ready  ## Render the defaults, start the service and watch its agent act
	@$(UV) run --quiet python -m demo

test: .tools/ready  ## Check everything: this repository and the projects that it renders
	$(UV) run --quiet ruff format --check
	$(UV) run --quiet ruff check
	$(UV) run --quiet pyright
	$(UV) run --quiet pytest

test-quick: .tools/ready  ## Check questions and rendering only
	$(UV) run --quiet pytest --ignore tests/test_projects.py --ignore tests/test_updates.py -k 'not types and not imported'

test-changed: .tools/ready  ## Check what differs from the last commit, and what that may touch
	$(UV) run --quiet pytest --changed --ignore tests/test_updates.py --ignore tests/test_questions.py

bench: render  ## Measure the rendered store beside its peers; ARGS=--help shows options
	@$(UV) run --quiet --project build/my-agent --with-requirements benchmarks/requirements.txt \
		python -m benchmarks $(ARGS)

lint: .tools/ready  ## Format and lint this repository's own code
	$(UV) run --quiet ruff format
	$(UV) run --quiet ruff check --fix

render: .tools/ready  ## Render the defaults from the working tree into build/my-agent
	$(UV) run --quiet python -m demo.render

clean:  ## Delete what the other targets made
	rm -rf build .tools .venv .pytest_cache .ruff_cache

.tools/ready: tools/bootstrap.sh pyproject.toml
	@sh tools/bootstrap.sh
	@$(UV) sync --quiet
	@touch $@
