# EditCaption-Mega on NVIDIA's PyTorch image, which brings PyTorch, Transformer Engine, Apex, nvcc and NCCL.
#
#   docker build --tag editcaption .
#   docker run --rm -it --gpus all --ipc=host --ulimit memlock=-1 --volume "$PWD/runs:/opt/editcaption/runs" editcaption
#
# BASE may be any of these images with Python 3.12 and PyTorch 2.11 to 2.13; the build checks both.
# ARCHS: GPUs to compile the kernels for (setup.py leaves out what the image's nvcc does not know, and says so).
ARG BASE=nvcr.io/nvidia/pytorch:26.05-py3
FROM ${BASE}
ARG ARCHS="80;90;100+PTX"
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/editcaption

COPY pyproject.toml setup.py constraints.txt README.md LICENSE Makefile ./
COPY csrc ./csrc
COPY editcaption_mega ./editcaption_mega
COPY configs ./configs
COPY launch ./launch
COPY tools ./tools
COPY docs ./docs
COPY tests ./tests

# The image's own torch fits its CUDA, Transformer Engine and Apex: a constraint keeps it, and the build fails if it goes.
RUN python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12) and "this image has another Python than 3.12")' \
 && python -m pip list --format=freeze \
    | grep --extended-regexp --ignore-case '^(torch|torchvision|triton|numpy|apex|transformer[-_]engine[^=]*)==' \
    > /tmp/image.txt \
 && python -m pip install --no-cache-dir --constraint /tmp/image.txt 'setuptools>=77' 'pybind11>=3.0' 'ninja>=1.11' \
 && EDITCAPTION_CUDA_ARCHS="${ARCHS}" \
    python -m pip install --no-cache-dir --no-build-isolation --constraint /tmp/image.txt --editable '.[test]' \
 && python -m pip list --format=freeze | grep --fixed-strings --line-regexp "$(grep '^torch==' /tmp/image.txt)" \
 && python -c 'from editcaption_mega.kernels.compiled import EXTENSION as e; print("CUDA kernels for", e.CUDA_ARCHITECTURES or 1 / 0)' \
 && rm /tmp/image.txt

RUN useradd --create-home --uid 10001 editcaption \
 && mkdir --parents runs \
 && chown --recursive editcaption:editcaption /opt/editcaption
USER editcaption
CMD ["bash"]
