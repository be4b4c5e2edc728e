# The image: one static program and nothing else. Builds on a clean checkout, natively for amd64 and arm64.
ARG BUILDER_IMAGE=docker.io/library/rust:1.95-bookworm

FROM ${BUILDER_IMAGE} AS builder
WORKDIR /src
COPY . .
RUN make build BUILT=simple-device-plugin && cp target/*/release/simple-device-plugin /

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="simple-device-plugin" \
      org.opencontainers.image.description="Simulated devices as extended resources, from environment variables" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=builder /simple-device-plugin /simple-device-plugin
# Root, unless a pod says otherwise: the kubelet's directory is root's.
ENTRYPOINT ["/simple-device-plugin"]
