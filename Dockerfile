# Two images: docker build --target cpu --build-arg TORCH_INDEX=URL -t skingpt4:cpu .   and   docker build --target cuda -t skingpt4:cuda .
# Neither holds weights or models: mount them (compose.yaml). docs/deploy.md says what of this was run and what was not.
# Put the digest of the base that you have checked behind its name: python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

# ---- the locked packages, and the application as it is installed everywhere else
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
RUN python -m venv /opt/skingpt4/venv
ENV PATH=/opt/skingpt4/venv/bin:$PATH
WORKDIR /opt/skingpt4/app
COPY requirements.lock requirements-lavis.txt ./

# Without CUDA, from an index of CPU wheels (PyTorch's installation page names one), for which the lock has no hashes.
FROM build AS build-cpu
ARG TORCH_INDEX
RUN : "${TORCH_INDEX:?name an index of CPU wheels: --build-arg TORCH_INDEX=URL}" \
 && awk '/^[a-z]/ {skip = /^(torch|torchvision|triton)==|^(nvidia|cuda)-/} !skip' requirements.lock > others.txt \
 && sed -n 's/^\(torch\|torchvision\)==\([0-9.]*\).*/\1==\2/p' requirements.lock > torch.txt \
 && pip install --index-url "$TORCH_INDEX" -r torch.txt \
 && pip install --only-binary :all: --require-hashes --no-deps -r others.txt \
 && pip install --only-binary :all: --require-hashes --no-deps -r requirements-lavis.txt \
 && rm others.txt torch.txt
COPY . .
RUN pip install --no-deps --no-build-isolation . \
 && python deploy/unneeded.py > unneeded.txt && pip uninstall -q -y -r unneeded.txt \
 && rm -rf unneeded.txt build ./*.egg-info skingpt4 && ln -s /weights weights

# With CUDA: the lock's own torch brings NVIDIA's libraries; the host has the driver and the NVIDIA Container Toolkit.
FROM build AS build-cuda
RUN pip install --only-binary :all: --require-hashes -r requirements.lock \
 && pip install --only-binary :all: --require-hashes --no-deps -r requirements-lavis.txt
COPY . .
RUN pip install --no-deps --no-build-isolation . \
 && python deploy/unneeded.py > unneeded.txt && pip uninstall -q -y -r unneeded.txt \
 && rm -rf unneeded.txt build ./*.egg-info skingpt4 && ln -s /weights weights

# ---- what both run in: one user without rights, nothing to write to but what is mounted
FROM ${BASE} AS runtime
RUN groupadd --gid 10001 skingpt4 \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin skingpt4 \
 && mkdir /data /weights /models && chown skingpt4:skingpt4 /data && chmod 700 /data
# torch asks for the user's name, also where a platform gives the container another number.
ENV PATH=/opt/skingpt4/venv/bin:$PATH HOME=/tmp USER=skingpt4 HF_HOME=/tmp/huggingface HF_HUB_OFFLINE=1 MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
VOLUME ["/data", "/weights", "/models"]
WORKDIR /opt/skingpt4/app
EXPOSE 8080
# Every server of the image listens on 8080; a proxy's path is not needed to ask for its health.
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:8080/health', timeout=5)"]
ENTRYPOINT ["/opt/skingpt4/app/deploy/serve.sh"]
CMD ["--help"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/skingpt4 /opt/skingpt4
USER 10001:10001

# The last target is the one that `docker build .` makes.
FROM runtime AS cpu
COPY --from=build-cpu /opt/skingpt4 /opt/skingpt4
USER 10001:10001
