"""Start on finished scenes: on every one that is good enough, and on one by its name."""

from typing import Any

from airflow.sdk import Asset, dag, get_current_context, task

every_scene, town_hall = Asset("e2e3d_scene"), Asset("e2e3d_scene/town-hall")


@task
def scenes(psnr: float = 0) -> list[dict[str, Any]]:
    events = get_current_context()["triggering_asset_events"]
    made = [event.extra for of_asset in events.values() for event in of_asset]
    return [scene for scene in made if (scene["psnr"] or 0) >= psnr]


@task
def show(scene: dict[str, Any]) -> None:
    print(f"{scene['scene']} is at {scene['page']}: {scene['gaussians']} Gaussians")


@dag(schedule=[every_scene])
def fill_the_catalogue() -> None:
    show.expand(scene=scenes(psnr=25))


@dag(schedule=[town_hall])
def renew_the_town_hall() -> None:
    show.expand(scene=scenes())


fill_the_catalogue()
renew_the_town_hall()
