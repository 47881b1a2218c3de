"""mount-overlay and run-overlay in jobs: staged overlays, and a layer of the task's own."""

from __future__ import annotations

import contextlib
import os

from overlay.errors import DATA_LOST, USAGE, OverlayError, nothing_named, quote
from overlay.host import ending, foreground, private
from overlay.host.scratch import scratch_directory
from overlay.image import image as images
from overlay.image.ext3_image import PlannedImage
from overlay.jobs import staging
from overlay.jobs.layer import keep_layer, plan_layer, plan_making, remove_layer
from overlay.launch.facts import Opened, gather
from overlay.launch.request import Overlay
from overlay.launch.run import rehearse, run, show
from overlay.plan import Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from overlay.jobs.layer import Layer
    from overlay.launch.facts import Facts
    from overlay.launch.request import Session
    from overlay.output import Output
    from overlay.settings.config import Config


def run_in_job(
    options: Namespace,
    request: Session,
    config: Config,
    output: Output,
    *,
    shared: bool = False,
) -> int:
    """Launch a session over copies, with a layer, or both; return the exit status.

    shared  whether the session over copies is one with others
    """
    keep, per_task = getattr(options, "keep", None), getattr(options, "per_task", False)
    layered = per_task or options.discard_writes
    _check(options, request, layered)
    layer = None
    if layered:
        layer = plan_layer(
            config,
            scratch=scratch_directory(config),
            size=options.size,
            files=options.files,
            keep=keep,
            overlays=[one.path for one in request.overlays],
        )
    if layer and shared:
        output.notice("a session of its own: it writes a layer", "detail")
    job = _Job(
        request,
        config,
        layer,
        stage=options.stage,
        wait=options.wait,
        output=output,
        shared=shared and layer is None,
        write=bool(options.share),
    )
    if options.dry_run:
        show(job.rehearse(), output)
        return 0
    with ending.cleaning_up():
        status = job.do()
    return foreground.end_like(status)


def _check(options: Namespace, request: Session, layered: bool) -> None:
    """Refuse wishes that do not go together. Raises OverlayError (USAGE)."""
    if not request.overlays:
        raise nothing_named(f"{request.program} -o OVERLAY")
    first, *others = request.overlays
    path = quote(first.path)
    if layered and first.mode == "rw":
        raise OverlayError(
            f"{path} cannot be :rw: with --per-task and --discard-writes all overlays are"
            " only read",
            status=USAGE,
            hint=f"-o {path}:ro",
        )
    if options.stage and not layered and first.mode != "ro" and not others:
        raise OverlayError(
            f"there is nothing to stage: {path} is to be written",
            status=USAGE,
            hint=f"--stage copies what is only read: -o {path}:ro",
        )


class _Job:
    """A session in a job: what comes before it, the session itself, and what becomes of its layer.

    Copies and layers get their names when they are made, because others may be faster; until
    then the names are those that they will have if nobody is.
    """

    def __init__(
        self,
        request: Session,
        config: Config,
        layer: Layer | None,
        *,
        stage: bool,
        wait: float | None,
        output: Output,
        shared: bool = False,
        write: bool = False,
    ) -> None:
        """Take the Session as it was asked for.

        layer  the Layer that comes on top; None: there is none
        stage  whether overlays that are only read are copied
        wait   seconds to wait for overlays in use; None not at all
        shared whether it is one session with others
        write  whether that may be one that writes
        """
        first, *others = request.overlays
        read = [Overlay(one.path, "ro") for one in others]
        read.insert(0, Overlay(first.path, "ro") if layer else first)
        self._request = request.over(read, title=first.path)
        self._paths = {one: one.path for one in read}
        self._config = config
        self._layer = layer
        self._stage = stage
        self._shared = shared
        self._write = write
        self._wait = wait
        self._output = output
        self._scratch = scratch_directory(config)
        self._kept = layer is None or layer.keep is not None
        self._request.unsynced = not self._kept
        self._status: int | None = None

    def rehearse(self) -> Plan:
        """Return the Plan of all of it, to be shown: nothing is made, locked or started."""
        before, after = self._around()
        session = rehearse(self._request, self._config, self._moved, kept=self._kept)
        return Plan(before=[*before, session], after=after, notices=session.notices)

    def do(self) -> int:
        """Do it, and return the status of its end, negative for a signal."""
        # What cannot work at all is said before anything is copied or made.
        gather(self._request, self._config).close()
        before, after = self._around()
        Plan(before=[*before, Step(action=self._run)], after=after).do()
        assert self._status is not None
        return self._status

    def _around(self) -> tuple[list[Step | Plan], list[Step]]:
        """Return what is done before the session, and what after it."""
        words = ["mkdir", "-p", "-m", "700", private.name(self._scratch)]
        before: list[Step | Plan] = [Step(words, action=self._prepare)]
        if self._stage:
            before += [self._staging(one) for one in self._request.overlays if one.mode == "ro"]
        if self._layer is None:
            return before, []
        return [*before, plan_making(self._layer, self._config)], [self._ending(self._layer)]

    def _prepare(self) -> None:
        """Make the user's directory on scratch; where that cannot be, who needs it says so."""
        with contextlib.suppress(OverlayError):
            private.make(self._scratch)

    def _staging(self, overlay: Overlay) -> Step:
        """Return the Step that copies an overlay to scratch, where it is not yet."""
        image = images.look(overlay.path)
        try:
            copy = staging.copy_name(image, private.name(self._scratch))
        finally:
            image.close()

        def stage() -> None:
            self._paths[overlay] = staging.stage(
                overlay.path,
                self._config,
                scratch=self._scratch,
                wait=self._wait,
                notice=self._output.notice,
            )

        if not image.is_file:
            return Step(action=stage, why=staging.not_staged(overlay.path, "it is a directory"))
        self._paths[overlay] = copy
        words = "once for all tasks of the node"
        return Step(["cp", "--sparse=always", "-n", overlay.path, copy], action=stage, why=words)

    def _ending(self, layer: Layer) -> Step:
        """Return the Step that moves the image of a Layer to where it is kept, or removes it."""
        words = ["rm", layer.path]
        if layer.keep:
            words = ["mv", "-n", "-T", layer.path, os.path.join(layer.keep, layer.name)]
        return Step(words, action=lambda: self._end(layer))

    def _moved(self, facts: Facts) -> Facts:
        """Return the Facts of the session as they will be when all before it is done."""
        overlays = [
            Opened(
                Overlay(self._paths[named], named.mode),
                one.image,
                written=one.written,
                why=one.why,
            )
            for named, one in zip(self._request.overlays, facts.overlays)
        ]
        if self._layer:
            path = self._layer.path
            image = PlannedImage(path, os.stat(self._scratch), -1, True)
            image.upper = os.getuid()
            overlays.insert(0, Opened(Overlay(path, "rw"), image, written=True))
        return facts.over(overlays)

    def _run(self) -> None:
        """Run the session, over what has been made before it."""
        overlays = [Overlay(self._paths[one], one.mode, one.path) for one in self._request.overlays]
        layer = self._layer
        if layer:
            overlays.insert(0, Overlay(layer.path, "rw"))
        request = self._request.over(overlays, title=self._request.title)
        if self._shared:
            from overlay.shared import session

            self._status = session.run(
                request,
                self._config,
                wait=self._wait,
                output=self._output,
                copies=private.name(self._scratch),
                write=self._write,
            )
            return
        self._status = run(
            request,
            self._config,
            wait=self._wait,
            output=self._output,
            replace=layer is None,
            kept=self._kept,
        )

    def _end(self, layer: Layer) -> None:
        """Keep what a Layer holds, when the session came to its end; else throw it away."""
        if self._status is None or layer.keep is None:
            remove_layer(layer)
            return
        try:
            self._output.notice(f"what was written is kept: {quote(keep_layer(layer, layer.keep))}")
        except OverlayError as error:
            self._output.error(error)
            self._status = self._status or DATA_LOST
