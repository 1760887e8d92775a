# Image with the programs service-a, service-b and lab (which generates the load).
# Build with BuildKit, the default since Docker 23: docker build -t observability-starter .

FROM rust:1.95-bookworm AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Adds the list of crates to each program, for `cargo audit bin` and the scanners of images.
RUN cargo install --locked cargo-auditable@0.7.7
WORKDIR /src
COPY . .
# Value of the label `revision` of build_info. The build context does not contain .git.
ARG REVISION=unknown
# The cache mounts keep compiled dependencies, so that a changed source file recompiles only the crates of
# this workspace.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    REVISION="$REVISION" cargo auditable build --release --locked -p service-a -p service-b -p lab \
    && install -D -t /image/usr/local/bin target/release/service-a target/release/service-b target/release/lab
# The C library and its loader are the only files that the programs need.
RUN ldd /image/usr/local/bin/* | grep -o '/lib[^ ]*' | sort -u | xargs cp --parents --dereference --target-directory=/image

# The image contains no shell and no package manager. The health check is `service-a --health-check`.
FROM scratch
COPY --from=build /image /
USER 65532:65532
STOPSIGNAL SIGTERM
CMD ["service-b"]
