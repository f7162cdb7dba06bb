# The batonq program on a small image, as a user without rights.
#
# Both stages are Debian 12: the program needs the C library that it was built with.
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches are not part of the image, so the program is copied out of one.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p batonq \
    && cp target/release/batonq /batonq \
    && mkdir /data

FROM debian:bookworm-slim
COPY --from=build /batonq /usr/local/bin/batonq
# A new volume takes its owner from the directory that it covers.
COPY --from=build --chown=65532:65532 /data /var/lib/batonq
ENV BATONQ_DATA_DIR=/var/lib/batonq
# By number: Kubernetes can not tell whether a name is root.
USER 65532:65532
EXPOSE 6789 6790
# No HEALTHCHECK: no program in here speaks HTTP. GET /health/live and /health/ready, from outside.
ENTRYPOINT ["/usr/local/bin/batonq"]
CMD ["serve"]
