PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Extra arguments of pip install; CI pins versions with "-c .ci/constraints.txt".
PIP_FLAGS ?=

.PHONY: demo test test-slow test-lowest lint clean

demo: $(VENV)/base.installed
	$(BIN)/jointnet generate "a large red ball left of a small blue box on a checkered floor under a blue sky" --seed 7 -o out/demo
	@echo "The picture and its depth are in out/demo: open image.png and depth_preview.png"

test: $(VENV)/dev.installed
	$(BIN)/python -m pytest

test-slow: $(VENV)/slow.installed $(VENV)/npm.installed
	$(BIN)/python -m pytest -m slow

# The oldest versions that pyproject.toml admits; without the evaluation tests, whose torchvision wants the newest torch.
test-lowest: $(VENV)-lowest/bin/python
	$(VENV)-lowest/bin/python -m pip install --quiet -c .ci/lowest.txt -e ".[deepfloyd]" pytest pytest-xdist scipy peft torchsde trimesh
	$(VENV)-lowest/bin/python -m pytest --ignore tests/evaluation

$(VENV)-lowest/bin/python:
	$(PYTHON) -m venv $(VENV)-lowest

lint: $(VENV)/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/base.installed: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -e .
	touch $@

$(VENV)/dev.installed: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -e ".[eval,dev]"
	touch $@

# What only slow tests need: a local Ray cluster, a server that speaks S3, OpenVINO.
$(VENV)/slow.installed: $(VENV)/dev.installed
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) "ray>=2.50" pandas
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) s3fs "moto[server]" "openvino>=2026.4"
	touch $@

# The Khronos validator of .glb files, if there is npm; the test that needs it says so if there is none.
$(VENV)/npm.installed: $(VENV)/bin/python
	if command -v npm > /dev/null; then npm install --silent --prefix $(VENV) gltf-validator@2.0.0-dev.3.10; fi
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest out
