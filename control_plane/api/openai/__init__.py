"""OpenAI's API, ``/v1``: a view of the generation service that ``/generate`` shows too."""

from control_plane.api.openai import embeddings, models, tokenize
from control_plane.api.openai.chat import routes as chat
from control_plane.api.openai.completions import routes as completions

routers = (chat.router, completions.router, embeddings.router, models.router, tokenize.router)
