# CPU image.
#   docker build -t oodgan .
#   docker run --rm -v "$PWD:/photos" -v oodgan-cache:/home/oodgan/.cache oodgan edit photo.jpg 'edits={smile: 1}' output=edited
# The web page listens on 127.0.0.1, so share the host's network (Linux):
#   docker run --rm --network host -v oodgan-cache:/home/oodgan/.cache oodgan serve
# The container's user has the id 1000; where yours differs, add `--user "$(id -u):$(id -g)" -e HOME=/tmp`.
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /opt/oodgan
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
COPY conf ./conf
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt '.[app,sweep,export]' \
    && useradd --create-home --uid 1000 oodgan \
    && mkdir -p /home/oodgan/.cache /photos \
    && chown oodgan: /home/oodgan/.cache /photos

USER 1000
WORKDIR /photos
VOLUME ["/home/oodgan/.cache"]
ENTRYPOINT ["oodgan"]
CMD ["--help"]
