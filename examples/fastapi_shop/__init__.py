"""The shop as a FastAPI service: async and def endpoints, a websocket, a background task, a stream."""
