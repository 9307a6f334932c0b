"""`prfaas bench`: a workload sent to an OpenAI endpoint, and what its clients saw."""
