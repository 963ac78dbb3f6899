# syntax=docker/dockerfile:1

# With a configuration file:
#     docker run -p 6432:6432 -v ./pgweir.toml:/etc/pgweir/pgweir.toml:ro -e PGWEIR_CONFIG=/etc/pgweir/pgweir.toml pgweir
# or, without one, for the servers and the only user that the URLs name:
#     docker run -p 6432:6432 -e DATABASE_URL=postgres://app:secret@db1/app pgweir
#
# In a file, listen on 0.0.0.0:6432 and serve metrics on 0.0.0.0:9127: the health check asks there, and
# 127.0.0.1 is only the container itself.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY . .
# The line tables of the release profile are for profilers and would make the binary ten times as large.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin pgweir \
    && install -D target/release/pgweir /out/pgweir

FROM debian:bookworm-slim
# The authorities behind `sslrootcert=system`.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin pgweir \
    && mkdir /etc/pgweir
COPY --from=build /out/pgweir /usr/local/bin/pgweir
COPY LICENSE LICENSE-APACHE LICENSE-MIT /usr/share/doc/pgweir/

# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
# Used without a configuration file only.
ENV PGWEIR_LISTEN=0.0.0.0:6432 PGWEIR_HTTP=0.0.0.0:9127
EXPOSE 6432 9127
# Running transactions get `shutdown_timeout` (30s) to finish: give the container more time than that
# before it is killed (docker stop --time, terminationGracePeriodSeconds).
STOPSIGNAL SIGTERM
# bash is part of every Debian and speaks TCP by itself.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/9127 && printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && read -r status <&3 && [[ $status == 'HTTP/1.1 200 '* ]]"]
ENTRYPOINT ["pgweir"]
CMD ["run"]
