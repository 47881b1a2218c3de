"""mount-overlay and run-overlay in jobs: staged overlays, and a layer of the task's own."""

import os

from overlay.errors import DATA_LOST, USAGE, OverlayError, quote
from overlay.host import ending, foreground, private
from overlay.host.scratch import scratch_directory
from overlay.image.ext3_image import PlannedImage
from overlay.jobs import staging
from overlay.jobs.layer import keep_layer, make_layer, plan_layer, plan_making, remove_layer
from overlay.launch.facts import gather
from overlay.launch.plan import make_plan
from overlay.launch.run import look_inside, run
from overlay.plan import Step


def run_in_job(options, request, config, output):
    """Launch a session over copies, with a layer, or both; return the exit status."""
    keep = getattr(options, "keep", None)
    per_task = getattr(options, "per_task", False)
    layered = per_task or options.discard_writes
    _check(options, request, layered)
    environ = config.environ
    scratch = scratch_directory(config)
    layer = None
    if layered:
        request.title = request.overlays[0][0]
        originals = [path for path, _mode in request.overlays]
        request.overlays = [(path, "ro") for path in originals]
        layer = plan_layer(
            config,
            environ,
            scratch=scratch,
            size=options.size,
            files=options.files,
            keep=keep,
            overlays=originals,
        )
    if options.dry_run:
        output.result(_dry_run(request, config, layer, options.stage, scratch), exact=True)
        return 0
    with ending.cleaning_up():
        if options.stage:
            request.title = request.title or request.overlays[0][0]
            request.overlays = [
                (_staged(path, config, scratch, options, output) if mode == "ro" else path, mode)
                for path, mode in _with_modes(request.overlays)
            ]
        if layer is None:
            status = run(request, config, wait=options.wait, output=output)
        else:
            status = _run_layer(layer, request, config, options.wait, output)
    return foreground.end_like(status)


def _check(options, request, layered):
    """Refuse wishes that do not go together. Raises OverlayError (USAGE)."""
    if not request.overlays:
        raise OverlayError(
            "no overlay is named", status=USAGE, hint=f"{request.program} -o OVERLAY"
        )
    (path, mode), *others = request.overlays
    if layered and mode == "rw":
        raise OverlayError(
            f"{quote(path)} cannot be :rw: with --per-task and --discard-writes all overlays are"
            " only read",
            status=USAGE,
            hint=f"-o {quote(path)}:ro",
        )
    if options.stage and not layered and mode != "ro" and not others:
        raise OverlayError(
            f"there is nothing to stage: {quote(path)} is to be written",
            status=USAGE,
            hint=f"--stage copies what is only read: -o {quote(path)}:ro",
        )


def _with_modes(overlays):
    """Return (path, mode) of overlays, those behind the first as the read-only ones they are."""
    first, *others = overlays
    return [first, *((path, mode or "ro") for path, mode in others)]


def _staged(path, config, scratch, options, output):
    return staging.stage(path, config, scratch=scratch, wait=options.wait, notice=output.notice)


def _run_layer(layer, request, config, wait, output):
    """Run a session with a Layer on top, and keep that or throw it away; return the status."""
    status = None
    try:
        make_layer(layer, config)
        request.overlays.insert(0, (layer.path, "rw"))
        kept = layer.keep is not None
        status = run(request, config, wait=wait, output=output, replace=False, kept=kept)
    finally:
        if layer.made and (status is None or layer.keep is None):
            remove_layer(layer)
    if layer.keep is None:
        return status
    try:
        output.notice(f"what was written is kept: {quote(keep_layer(layer))}")
    except OverlayError as error:
        output.error(error)
        return status or DATA_LOST
    return status


def _dry_run(request, config, layer, stage, scratch):
    """Return what would be done, as lines for a shell."""
    environ = config.environ
    facts = gather(request, config, environ)
    before, after = [], []
    overlays = list(request.overlays)
    if stage:
        for place, (image, (_path, mode)) in enumerate(zip(facts.images, _with_modes(overlays))):
            if mode == "ro" and image.is_file:
                copy = staging.copy_name(image, private.name(scratch))
                arguments = ["cp", "--sparse=always", "-n", image.path, copy]
                before.append(Step(arguments, why="once for all tasks of the node"))
                image.path = copy
                overlays[place] = copy, mode
    if layer:
        top = PlannedImage(layer.path, os.stat(scratch), -1, True)
        top.upper = os.getuid()
        facts.images.insert(0, top)
        overlays.insert(0, (layer.path, "rw"))
        making = plan_making(layer, config)
        before += [*making.before, making.final, *making.after]
        if layer.keep:
            after.append(Step(["mv", "-n", layer.path, layer.keep]))
        else:
            after.append(Step(["rm", layer.path]))
    before.insert(0, Step(["mkdir", "-p", "-m", "700", private.name(scratch)]))
    request.overlays = overlays
    look_inside(request, facts, remember=False)
    plan = make_plan(request, config, facts)
    plan.before = [*before, *plan.before]
    plan.after = [*plan.after, *after]
    return plan.shell()
