import torch
from torch import distributed, multiprocessing
from torch.testing import assert_close

from hmba_hf.models.layers_contrast import contrastive_loss, gathered, similarities


def learn(videos, texts, pair_ids):
    """The contrast of all pairs, and the gradients of these videos and texts."""
    videos = videos.clone().requires_grad_()
    texts = texts.clone().requires_grad_()
    scaled = similarities(gathered(videos), gathered(texts)) / 0.07
    everyone = gathered(pair_ids)
    loss = contrastive_loss(scaled, everyone[:, None] == everyone[None])
    loss.backward()
    return loss.detach(), videos.grad, texts.grad


def pairs():
    generator = torch.Generator().manual_seed(0)
    videos = torch.randn(4, 3, 5, generator=generator)
    texts = torch.randn(4, 5, generator=generator)
    return videos, texts, torch.tensor([0, 1, 2, 0])


def learn_in_a_process(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = learn(*[tensor[2 * rank : 2 * rank + 2] for tensor in pairs()])
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_have_the_contrast_and_the_gradients_of_one(tmp_path):
    multiprocessing.spawn(learn_in_a_process, (str(tmp_path),), nprocs=2)
    loss, *gradients = learn(*pairs())
    for rank in range(2):
        found, *parts = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert_close(found, loss)
        for part, gradient in zip(parts, gradients, strict=True):
            own = gradient[2 * rank : 2 * rank + 2]
            assert_close(part / 2, own, msg="the mean over the processes is the gradient of one")
