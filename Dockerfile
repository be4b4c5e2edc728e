# The image contains one static program. It builds from a clean checkout, natively on amd64 and arm64.
ARG BUILDER_IMAGE=docker.io/library/rust:1.95-bookworm

FROM ${BUILDER_IMAGE} AS builder
WORKDIR /src
COPY . .
RUN make build BUILD_PACKAGES=simple-device-plugin && cp target/*/release/simple-device-plugin /

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="simple-device-plugin" \
      org.opencontainers.image.description="Simulated devices as extended resources, from environment variables" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=builder /simple-device-plugin /simple-device-plugin
# There is no USER: the kubelet's device plugin directory is writable only for root.
ENTRYPOINT ["/simple-device-plugin"]
