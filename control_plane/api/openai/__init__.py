"""OpenAI's API, ``/v1``: a view of the generation service that ``/generate`` shows too."""

from control_plane.api.openai import chat, completions, embeddings, models, tokenize

routers = (chat.router, completions.router, embeddings.router, models.router, tokenize.router)
