# One image with the three programs: service-a, service-b and lab (the load).
# Build with BuildKit (Docker 23 and later use it by themselves): docker build -t observability-starter .

FROM rust:1.95-bookworm AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY . .
# Shown as build_info's label `revision`; .git itself stays out of the build.
ARG REVISION=unknown
# Dependencies live in the two cache mounts, apart from the sources: a changed source file compiles
# the workspace's own crates again and nothing else.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    REVISION="$REVISION" cargo build --release --locked -p service-a -p service-b -p lab \
    && install -D -t /image/usr/local/bin target/release/service-a target/release/service-b target/release/lab
# The C library and its loader are all that the programs need besides the kernel.
RUN ldd /image/usr/local/bin/* | grep -o '/lib[^ ]*' | sort -u | xargs cp --parents --dereference --target-directory=/image

# No shell, no package manager, nothing to write to: `service-a --health-check` is its own probe.
FROM scratch
COPY --from=build /image /
USER 65532:65532
STOPSIGNAL SIGTERM
CMD ["service-b"]
