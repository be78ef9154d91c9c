# Two images. `services`, the default, has all services and the command `trillium`; `serving` has
# what predictors and aggregators need, and is what `services` is made of:
#
#     docker build --tag trillium .
#     docker build --target serving --tag trillium-serving .
#     docker run --rm --read-only -p 127.0.0.1:50061:50061 trillium-serving \
#         predictor --model models/iris-setosa.onnx
#
# The first word of the command picks the service.
#
# The classic builder and BuildKit both build it. Any base with Python 3.11 or newer, its venv
# module and CA certificates will do: --build-arg BASE_IMAGE=...
ARG BASE_IMAGE=python:3.13-slim-bookworm

# --- What predictors and aggregators need: only wheels, so that no stage needs a compiler ---
FROM ${BASE_IMAGE} AS serving-packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Two environments: pip works from the one on the other, which then has none. The files name
# everything, so pip resolves nothing (scripts/install.py says why), and `check` sees that all is there.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/trillium
COPY requirements/serving.txt /build/serving.txt
# What no service uses is left out. An rm fails where a name is gone, so that a new version is looked
# at again.
RUN /opt/pip/bin/pip --quiet --python /opt/trillium/bin/python install \
        --no-deps --require-hashes --only-binary :all: --requirement /build/serving.txt \
    && /opt/pip/bin/pip --python /opt/trillium/bin/python check \
    && cd /opt/trillium/lib/python3*/site-packages \
    && find numpy -name tests -type d -prune -exec rm -r {} + \
    && find uvloop -name '*.py[xd]' -o -name '*.px[di]' -o -name '*.c' | xargs rm

# --- What controllers, gateways and the command need besides ---
FROM serving-packages AS packages
COPY requirements/run.txt /build/run.txt
# Only the files that this step adds go on, in a layer on top of the serving image. Tests, sources,
# copies, and Arrow's ways to other machines are left out.
RUN touch /build/before \
    && /opt/pip/bin/pip --quiet --python /opt/trillium/bin/python install \
        --no-deps --require-hashes --only-binary :all: --requirement /build/run.txt \
    && /opt/pip/bin/pip --python /opt/trillium/bin/python check \
    && cd /opt/trillium/lib/python3*/site-packages \
    && rm -r pyarrow/tests pyarrow/include pyarrow/src pyarrow/*flight* pyarrow/*s3* \
        pyarrow/*cpp_tests* \
    && rm pyarrow/*.so.*.*.* pyarrow/libarrow_*.so \
    && find pyarrow -name '*.py[xd]' -o -name '*.px[di]' -o -name '*.c' | xargs rm \
    && mkdir /opt/more && cd /opt/trillium \
    && find . -cnewer /build/before ! -type d -print0 \
        | tar --null --files-from - --create | tar --extract --directory /opt/more

# --- The iris models: of the training libraries, only what they made goes on ---
FROM serving-packages AS models
COPY requirements/train.txt /build/train.txt
RUN /opt/pip/bin/pip --quiet install \
        --no-deps --require-hashes --only-binary :all: --requirement /build/train.txt \
    && /opt/pip/bin/pip check
COPY trillium /build/trillium
RUN cd /build && /opt/pip/bin/python -m trillium models train --builtin iris --output /models \
    && chmod --recursive a+rX /models

# --- The sources, compiled here because the file system is read-only later ---
FROM serving-packages AS sources
COPY trillium /srv/serving/trillium
COPY predictor /srv/serving/predictor
COPY aggregator /srv/serving/aggregator
COPY controller /srv/more/controller
COPY gateway /srv/more/gateway
# The folder that a file says it is from is the one where it will be.
RUN /opt/trillium/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        -s /srv/serving -s /srv/more -p /srv/trillium /srv/serving /srv/more \
    && chmod --recursive a+rX /srv \
    && mkdir --mode 0700 /credentials && touch /credentials/.keep

FROM ${BASE_IMAGE} AS serving
LABEL org.opencontainers.image.title="Trillium serving" \
      org.opencontainers.image.description="Predictors and aggregators of a classifier" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=serving-packages /opt/trillium /opt/trillium
COPY --from=models /models /srv/trillium/models
COPY --from=sources /srv/serving /srv/trillium
# A volume that is mounted here begins as it is: its services' own.
COPY --from=sources --chown=10001:10001 /credentials /credentials
# Listening inside a container is private until a port is published; whoever gets there may score
# rows, and nothing else, unless they bring a token. ONNX Runtime would try to tell its makers of its
# use, from threads of its own.
ENV PATH=/opt/trillium/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/srv/trillium \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    TRILLIUM_PREDICTOR_LISTEN=0.0.0.0:50061 \
    TRILLIUM_AGGREGATOR_LISTEN=0.0.0.0:50051 \
    TRILLIUM_CONTROLLER_LISTEN=0.0.0.0:50052 \
    TRILLIUM_GATEWAY_LISTEN=0.0.0.0:9000 \
    TRILLIUM_PREDICTOR_INSECURE=yes \
    TRILLIUM_AGGREGATOR_INSECURE=yes \
    TRILLIUM_CONTROLLER_INSECURE=yes \
    TRILLIUM_GATEWAY_INSECURE=yes \
    TRILLIUM_PREDICTOR_ANONYMOUS=infer \
    TRILLIUM_AGGREGATOR_ANONYMOUS=infer
WORKDIR /srv/trillium
# A number, so that whoever forbids root can see that it is none. It needs no entry in passwd.
USER 10001:10001
STOPSIGNAL SIGTERM
# Asks the server that listens on one of the ports above. Each time costs 0.3 s of a core.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "trillium.healthcheck", "127.0.0.1:50051", "127.0.0.1:50052", \
         "127.0.0.1:50061", "http://127.0.0.1:9000/health"]
ENTRYPOINT ["python", "-m"]
CMD ["predictor", "--help"]

FROM serving AS services
LABEL org.opencontainers.image.title="Trillium" \
      org.opencontainers.image.description="A classifier as parallel gRPC microservices"
COPY --from=packages /opt/more /opt/trillium
COPY --from=sources /srv/more /srv/trillium
CMD ["trillium", "--help"]
