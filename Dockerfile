# One image for all services; the first word of the command picks one:
#
#     docker build --tag trillium .
#     docker run --rm --read-only -p 127.0.0.1:50061:50061 trillium \
#         predictor --model models/iris-setosa.onnx
#
# The classic builder and BuildKit both build it. Any base with Python 3.11 or newer, its venv
# module and CA certificates will do: --build-arg BASE_IMAGE=...
ARG BASE_IMAGE=python:3.13-slim-bookworm

# --- What is served with: only wheels, so that no stage needs a compiler ---
FROM ${BASE_IMAGE} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Two environments: pip works from the one on the other, which then has none. The files name
# everything, so pip resolves nothing (scripts/install.py says why), and `check` sees that all is there.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/trillium
COPY requirements/run.txt /build/run.txt
# What no service uses is left out: tests, sources, copies, and Arrow's ways to other machines. An rm
# fails where a name is gone, so that a new version is looked at again.
RUN /opt/pip/bin/pip --quiet --python /opt/trillium/bin/python install \
        --no-deps --require-hashes --only-binary :all: --requirement /build/run.txt \
    && /opt/pip/bin/pip --python /opt/trillium/bin/python check \
    && cd /opt/trillium/lib/python3*/site-packages \
    && rm -r onnx/backend/test pyarrow/tests pyarrow/include pyarrow/src pyarrow/*flight* \
        pyarrow/*s3* pyarrow/*cpp_tests* \
    && rm pyarrow/*.so.*.*.* pyarrow/libarrow_*.so \
    && find numpy -name tests -type d -prune -exec rm -r {} + \
    && find pyarrow uvloop -name '*.py[xd]' -o -name '*.px[di]' -o -name '*.c' | xargs rm

# --- The iris models: of the training libraries, only what they made goes on ---
FROM packages AS models
COPY requirements/train.txt /build/train.txt
RUN /opt/pip/bin/pip --quiet install \
        --no-deps --require-hashes --only-binary :all: --requirement /build/train.txt \
    && /opt/pip/bin/pip check
COPY trillium /build/trillium
RUN cd /build && /opt/pip/bin/python -m trillium models train --builtin iris --output /models \
    && chmod --recursive a+rX /models

# --- The services, compiled here because the file system is read-only later ---
FROM packages AS source
COPY trillium /srv/trillium/trillium
COPY predictor /srv/trillium/predictor
COPY aggregator /srv/trillium/aggregator
COPY controller /srv/trillium/controller
COPY gateway /srv/trillium/gateway
RUN /opt/trillium/bin/python -m compileall -q --invalidation-mode unchecked-hash /srv/trillium \
    && chmod --recursive a+rX /srv/trillium

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Trillium" \
      org.opencontainers.image.description="A classifier as parallel gRPC microservices" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=packages /opt/trillium /opt/trillium
COPY --from=models /models /srv/trillium/models
COPY --from=source /srv/trillium /srv/trillium
# Listening inside a container is private until a port is published. ONNX Runtime would try to tell
# its makers of its use, from threads of its own.
ENV PATH=/opt/trillium/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/srv/trillium \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    TRILLIUM_PREDICTOR_LISTEN=0.0.0.0:50061 \
    TRILLIUM_AGGREGATOR_LISTEN=0.0.0.0:50051 \
    TRILLIUM_CONTROLLER_LISTEN=0.0.0.0:50052 \
    TRILLIUM_GATEWAY_LISTEN=0.0.0.0:9000
WORKDIR /srv/trillium
# A number, so that whoever forbids root can see that it is none. It needs no entry in passwd.
USER 10001:10001
STOPSIGNAL SIGTERM
# Asks the server that listens on one of the ports above. Each time costs 0.3 s of a core.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "trillium.healthcheck", "127.0.0.1:50051", "127.0.0.1:50052", \
         "127.0.0.1:50061", "http://127.0.0.1:9000/health"]
ENTRYPOINT ["python", "-m"]
CMD ["trillium", "--help"]
