"""The clients of an aggregator and of a controller, blocking and asyncio."""
