# The base: an official PyTorch runtime image, pinned.
#
# PyTorch 2.13.0, CUDA 12.6, Python 3.12.  It is the torch of requirements.txt, so the one that is tested is the one that
# is shipped (test/test_image.py), on the Python of Ubuntu 24.04, for which every pin has a wheel (.ci/wheels).
# It must run on a T4 (compute capability 7.5, sm_75) under driver 535 or later. PyTorch's CUDA 12.6 builds carry sm_75
# kernels up to 2.14, the last release with any CUDA 12. CUDA 12 programs run on any driver from 525 on (CUDA
# minor-version compatibility), as long as nothing has to be compiled from PTX, and native kernels need not be.
# CUDA 13 builds would need driver 580.  Not 2.9: its 3-D convolutions in half precision take several times the memory
# and time (github.com/pytorch/pytorch issues 166122 and 166643); 2.10 and later have a cuDNN without that fault.
#
# This tag was never pulled by us. Check it before the first upload; '2.13.0 12.6' and a list with 'sm_75' must come:
#   docker run --rm docker.io/pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime \
#     python3 -c "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_arch_list())"
#   docker run --rm --gpus all docker.io/pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime \
#     python3 -c "import torch; print(torch.ones(2, device='cuda') @ torch.ones(2, device='cuda'))"
#
# Any other image with pip and a Python that pyproject.toml allows will do: ./build.sh with BASE_IMAGE set.
ARG BASE_IMAGE=docker.io/pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime

# Build arguments say what the image is for (./build.sh passes on those that are set):
#   API_METHOD  exec: one study, then the end; invoke: a service.  It is also the label by which grand-challenge.org
#               knows which of the two to use, so label and behaviour cannot differ.
#   EDITION     of autoPET, 1 to 5: the output folder, and III's data-centric-model.json
#   WEIGHTS     bundles to copy, names under weights/; the first one is used unless an option or a mounted model
#               names another.  Empty: all that are shipped, and eoa is used.
FROM ${BASE_IMAGE} AS chosen
ARG API_METHOD=exec
ARG EDITION=2
ARG WEIGHTS=""
COPY weights/ /all/
RUN set -euf; \
    refuse() { echo "build argument $*" >&2; exit 1; }; \
    case "$API_METHOD" in exec|invoke) ;; *) refuse "API_METHOD must be exec or invoke, got '$API_METHOD'" ;; esac; \
    case "$EDITION" in [1-5]) ;; *) refuse "EDITION must be 1 to 5, got '$EDITION'" ;; esac; \
    cd /all; \
    mkdir /chosen; \
    for name in ${WEIGHTS:-eoa diwa}; do \
        case "$name" in */*|.*) refuse "WEIGHTS takes names under weights/, got '$name'" ;; esac; \
        [ -f "$name/manifest.json" ] || \
            refuse "WEIGHTS: there is no weights/$name/manifest.json; there are: $(find . -name manifest.json | cut -d/ -f2 | sort | tr '\n' ' ')"; \
        cp -R "$name" /chosen/; \
    done; \
    [ -n "$(find /chosen -name manifest.json)" ] || refuse "WEIGHTS names no bundle, got '$WEIGHTS'"

FROM ${BASE_IMAGE} AS libraries

WORKDIR /opt/app
COPY requirements.txt ./

# The image has one torch.  If the base carries torch, it keeps it, with its CUDA: the torch line of requirements.txt is
# left out, and a constraint keeps other packages from bringing a second one.  Otherwise all of it is installed.
RUN set -eu; \
    export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1; \
    torch=$(python3 -c 'import importlib.metadata as m; print(next((d.version for d in m.distributions(name="torch")), ""))'); \
    if [ -n "$torch" ]; then \
        echo "the base image carries torch $torch: kept"; \
        echo "torch==$torch" > /tmp/constraints.txt; \
        sed -E '/^[Tt]orch([^A-Za-z0-9._-]|$)/d' requirements.txt > /tmp/requirements.txt; \
        python3 -m pip install -r /tmp/requirements.txt -c /tmp/constraints.txt; \
    else \
        python3 -m pip install -r requirements.txt; \
    fi; \
    rm -rf /tmp/* /root/.cache

# The build fails unless there is one torch distribution, and it can be imported.
RUN python3 -c 'import importlib.metadata as m, sys; \
found = sorted({(d.version, str(d.locate_file(""))) for d in m.distributions(name="torch")}); \
len(found) == 1 or sys.exit(f"torch must be installed exactly once, found {len(found)}: {found}"); \
import torch; \
print("torch", torch.__version__, "CUDA", torch.version.cuda, found)'

FROM libraries

# A user of its own, 10001, who is not root whatever users the base has.  It can write only /output and /tmp, so HOME
# is /tmp.
RUN set -eu; \
    getent group 10001 > /dev/null || groupadd --gid 10001 segment; \
    getent passwd 10001 > /dev/null || \
        useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin segment; \
    mkdir -p /input /output; \
    chown 10001:10001 /output

# What changes least comes first.
COPY --from=chosen /chosen/ weights/
COPY LICENSE NOTICE ./
COPY process.py score.py ./
COPY model/ model/

# Compiled now, since nothing can be written later; "unchecked": sources are not looked at again at start.
# Files that only their owner may read in the checkout are made readable; others are not touched.
RUN find /opt/app ! -perm -a+r -exec chmod a+rX {} + \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/app

# NVIDIA_* matter only if the base does not set them; the last six are the program's settings.
ARG API_METHOD=exec
ARG EDITION=2
ARG WEIGHTS=""
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    AUTOPET_EDITION="${EDITION}" \
    LESION_DEFAULT_WEIGHTS="${WEIGHTS}" \
    LESION_WEIGHTS="" \
    LESION_METHOD="" \
    LESION_FOLDS="" \
    LESION_MIRRORING="" \
    LESION_PRECISION="" \
    LESION_SERVE="${API_METHOD}" \
    LESION_BIND=""

USER 10001:10001

# Checks every hash, setting and tensor of the bundles, as the user who will read them.
RUN python3 -m model.networks.weights weights/*

ARG VERSION=unknown
LABEL org.opencontainers.image.title="petct-lesion-segmentation" \
      org.opencontainers.image.description="Lesion segmentation in whole-body FDG PET/CT: PET and CT in, mask on the PET grid out" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT" \
      org.grand-challenge.api-method="${API_METHOD}"

ENTRYPOINT ["python3", "process.py"]
