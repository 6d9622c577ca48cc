"""`memoria batch`: runs the requests in a file as a batch of the service.

Uploads the file, creates the batch, waits for its end, and downloads its results.
"""
