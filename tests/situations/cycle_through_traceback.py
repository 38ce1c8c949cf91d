"""Looks like `exception`: a job keeps the exception whose traceback keeps the job. A cycle."""

import gc

import peer

gc.disable()


class Job:
    def run(self):
        sock = peer.abandoned()
        try:
            raise ValueError(sock.fileno())
        except ValueError as error:
            self.error = error


Job().run()
peer.stay()
gc.collect()
