# drivegen on a CPU, or with `--gpus all` on NVIDIA's: the steps are those of scripts/setup.sh.
#   docker build -t drivegen .
#   docker run --rm -v "$PWD/out:/drivegen/out" drivegen
FROM python:3.11-slim
WORKDIR /drivegen
COPY . .
RUN bash scripts/setup.sh
ENV PATH="/drivegen/.venv/bin:$PATH"
CMD ["bash", "scripts/demo.sh"]
