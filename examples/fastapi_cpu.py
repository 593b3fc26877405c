"""Work for the processor, in a thread, that asks now and then whether it is still wanted.

Serve it with ``uvicorn fastapi_cpu:app`` and ask for ``/primes?below=100000000``. A thread cannot
be interrupted from outside; ``check_cancelation_sync()`` is where it lets itself be.
"""

from fastapi import FastAPI

from cancelable import Cancelable
from cancelable_fastapi import CancelableDep, RequestCancelationMiddleware

app = FastAPI()
app.add_middleware(RequestCancelationMiddleware)


def count_primes(below: int, job: Cancelable) -> int:
    count = 0
    for number in range(2, below):
        if number % 1000 == 0:
            job.check_cancelation_sync()
            job.report_progress_sync(f"{count} primes below {number}")
        count += all(number % divisor for divisor in range(2, int(number**0.5) + 1))
    return count


@app.get("/primes")
async def primes(below: int, cancel: CancelableDep) -> dict[str, int]:
    async with cancel:
        cancel.on_progress(lambda _id, message, _metadata: print(message))
        return {"primes": await cancel.run_in_thread(count_primes, below, cancel)}
