# make run     segment the sample study            make check   layout, lint, types, quick tests: under two minutes
# make score   score three generated DICOM studies make docs    write every generated page and picture anew
# make test    every check and every test          make clean   remove what these made
# Each makes the environment .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run score test check lint docs clean
.DELETE_ON_ERROR:

run: export LESION_WEIGHTS =
run: export LESION_METHOD =
run: export AUTOPET_EDITION =
run: export LESION_SERVE =
run: export LESION_DEFAULT_WEIGHTS =
run: $(VENV)/installed
	$(BIN)/python process.py --input test/input --output output --preview --report output/report.json
	@$(BIN)/python test/helpers/show_sample.py output test/truth

score: export LESION_WEIGHTS =
score: export LESION_METHOD =
score: export LESION_DEFAULT_WEIGHTS =
score: $(VENV)/installed
	$(BIN)/python test/helpers/make_dicom_studies.py output-score/studies --count 3
	$(BIN)/python score.py output-score/studies --output output-score/results --truth output-score/studies-truth --rtstruct

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Three processes of one thread each for two cores, since one often waits for a program that it started. Files are dealt in
# the order that test/conftest.py gives them.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: export OMP_NUM_THREADS = 1
test: lint
	$(PYTEST)

check: export OMP_NUM_THREADS = 1
check: lint
	$(PYTEST) -m "not slow" -q

# The pages say which numbers were printed by a command and pasted; these files are written whole.
docs: run $(VENV)/installed-dev
	$(BIN)/python test/helpers/show_sample.py output test/truth --picture docs/sample.png
	$(BIN)/python test/helpers/bad_inputs.py
	$(BIN)/python -m benchmark.document benchmark/results/*.json --output docs/performance.md
	$(BIN)/python -m training schedule --output docs/averaging_rate.png
	$(BIN)/python -m training sheet --output docs/phantoms.png
	$(BIN)/python -m training sheet --maps training/phantom/maps --output docs/phantoms_on_maps.png

# pyproject.toml says which Python versions will do.
define CHECK_PYTHON
import re, sys
wanted = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', open("pyproject.toml").read())
least, end = map(int, wanted.groups())
sys.exit(not (3, least) <= sys.version_info[:2] < (3, end) and "Python 3.%d to 3.%d is needed, '%s' is %s: install one,"
    " or say make PYTHON=/path/to/python3.%d" % (least, end - 1, sys.executable, sys.version.split()[0], least))
endef
export CHECK_PYTHON

$(VENV)/installed: requirements.txt
	@test -n "$(PYTHON)" || { echo "No Python was found: install one, or say make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c "$$CHECK_PYTHON"
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt training/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) output output-score runs export
