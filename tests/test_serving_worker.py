"""The thread of the model takes together what waits for the same work, and its kinds of work take turns."""

import threading
import weakref

from hmba_hf.serving.worker import BatchWorker


class Work:
    """A letter that is noted when it is run."""

    has_begun = False

    def __init__(self, name):
        self.name = name


def test_the_frame_of_a_camera_waits_for_one_batch_of_requests_and_not_for_all():
    is_free = threading.Event()
    done = []

    def block(works):
        assert is_free.wait(60)

    def answer(works):
        done.append("".join(work.name for work in works))

    def push(works):
        done.append("".join(work.name for work in works))

    worker = BatchWorker(3)
    worker.submit(block, None, Work("-"))
    for name in "abcdefgh":
        worker.submit(answer, name == "c", Work(name))
    for name in "1234":
        worker.submit(push, None, Work(name))
    is_free.set()
    worker.close()
    assert done == ["abd", "123", "c", "4", "efg", "h"]
    assert len(worker) == 0


class Large:
    """Something that takes memory."""


def test_what_a_failed_batch_held_is_free_when_its_works_are_run_one_by_one():
    held = []
    alive = []

    def run(works):
        alive.extend(reference() is not None for reference in held)
        large = Large()
        held.append(weakref.ref(large))
        if len(works) > 1:
            raise MemoryError

    worker = BatchWorker(2)
    is_free = threading.Event()
    worker.submit(lambda works: is_free.wait(60), None, Work("-"))
    for name in "ab":
        worker.submit(run, None, Work(name))
    is_free.set()
    worker.close()
    assert alive == [False, False, False]
