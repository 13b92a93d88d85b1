"""A Serve application of somebody else's, on a cluster that has ours too."""

from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Other:
    def __call__(self, _: object) -> str:
        return "other"


app = Other.bind()
