# Everything runs in this repository's own folders: .tools/ has uv, .venv/ what uv installs, build/ what is rendered.
.DEFAULT_GOAL := help
UV := .tools/bin/uv
.PHONY: help demo test test-quick test-changed containers lowest bench soak fuzz docs picture release lint render clean

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
	$(UV) run --quiet pytest tests/test_questions.py tests/test_rendering.py tests/test_combinations.py \
		-k 'not types and not imported'

test-changed: .tools/ready  ## Check what differs from the last commit, and what that may touch
	$(UV) run --quiet pytest --changed tests/test_projects.py tests/test_combinations.py tests/test_rendering.py \
		tests/test_pipelines.py

containers: .tools/ready  ## Build and run the rendered containers, with Docker
	$(UV) run --quiet pytest -s tests/containers

lowest: render  ## Test a rendered project on the oldest dependencies that it allows
	rm -rf build/lowest
	$(UV) run --quiet copier copy --quiet --defaults --vcs-ref HEAD build/template build/lowest
	cd build/lowest && ../../$(UV) sync --quiet --resolution lowest-direct && ../../$(UV) run --no-sync pytest -q $(ARGS)

bench: render  ## Measure the rendered store beside its peers; ARGS=--help shows options
	@$(UV) run --quiet --project build/my-agent --with-requirements benchmarks/requirements.txt \
		python -m benchmarks $(ARGS)

soak: .tools/ready  ## Run a service under faults and account for every event; ARGS="--minutes 20 --seed 7"
	@$(UV) run --quiet python -m soak $(ARGS)

fuzz: .tools/ready  ## Send a service hostile input and judge its answers; ARGS="--minutes 20 --seed 7"
	@$(UV) run --quiet python -m fuzz $(ARGS)

docs: .tools/ready  ## Build the documentation of each release and of main into build/site
	@$(UV) run --quiet python -m tools.site
	@echo "Read it at build/site/index.html"

picture: .tools/ready  ## Draw what the demo prints, and the console's screens, into docs/
	$(UV) run --quiet python -m demo.picture
	$(UV) run --quiet --group pictures python -m demo.console_pictures

release: .tools/ready  ## Make VERSION a release, if updates to it work; pushes nothing
	@$(UV) run --quiet python tools/release.py $(VERSION)

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
