# make run: segment the sample study.  make score: score three generated DICOM studies.  make test: every test.
# All make .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run score test lint clean
.DELETE_ON_ERROR:

run: export LESION_WEIGHTS =
run: export LESION_METHOD =
run: export AUTOPET_EDITION =
run: export LESION_SERVE =
run: export LESION_DEFAULT_WEIGHTS =
run: $(VENV)/installed
	$(BIN)/python process.py --input test/input --output output --preview --report output/report.json
	@$(BIN)/python test/show_sample.py output test/truth

score: export LESION_WEIGHTS =
score: export LESION_METHOD =
score: export LESION_DEFAULT_WEIGHTS =
score: $(VENV)/installed
	$(BIN)/python test/helpers/make_dicom_studies.py output-score/studies --count 3
	$(BIN)/python score.py output-score/studies --output output-score/results --truth output-score/studies-truth --rtstruct

test: export OMP_WAIT_POLICY = PASSIVE
test: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2> /dev/null || \
		{ echo "Python 3.11 is needed, found '$(PYTHON)': install it, or say make PYTHON=/path/to/python3.11"; exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt training/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) output output-score runs export
