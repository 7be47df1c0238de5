"""A search before its first step, to be taken step by step."""

from support.jobs import TINY
from support.runs import ALONE
from tunas import SearchConfig, get_space
from tunas.run.session import generator
from tunas.search.objective import search_objectives
from tunas.search.plan import plan_search
from tunas.search.schedule import warmup_probability
from tunas.search.step import Search
from tunas.task.opening import open_task

SETTINGS = {
    "ssd": TINY,
    "image_size": 8,
    "train_batch_size": 48,
    "replicas": 4,
    "epochs": 1,
    "device": "cpu",
    "log_every": 1,
}


class Prepared:
    """A search that has not stepped yet, with its batches."""

    def __init__(self, **settings):
        self.config = SearchConfig(**{**SETTINGS, **settings})
        self.space = get_space(self.config.ssd)
        self.task = open_task(self.config)
        self.plan = plan_search(self.config, self.task.size("train"), digits=True, on_cuda=False)
        objectives = search_objectives(
            self.config, self.plan.rl_cost_model_exponent, self.space, self.task.cost_arguments
        )
        self.search = Search(self.space, self.task, self.plan, self.config, objectives, ALONE)

    def batches(self, step):
        plan = self.plan
        train = self.task.share_stream("train", plan.batch, plan.replicas, seed=0, start_step=step)
        valid = self.task.share_stream(
            "valid", plan.valid_share * plan.replicas, plan.replicas, seed=0, start_step=step
        )
        return next(train), next(valid)

    def step(self, step):
        return self.search.step(step, *self.batches(step))

    def samples(self, step):
        """The architectures that step `step` is about to run."""
        chances = (
            warmup_probability(step, warmup)
            for warmup in (self.plan.increase_ops_steps, self.plan.increase_filters_steps)
        )
        random = generator(self.config.seed, "controller", step)
        return self.search.aims[0].controller.sample(random, self.plan.replicas, *chances)
