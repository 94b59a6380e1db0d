"""Points and boxes that the model answers, and its answers in the selected segment."""

import slicer

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegPanels.ClickSession import ADD, ClickSession
from SAMAutoSegPanels.ClickTools import BOX, POINT, ClickTools
from SAMAutoSegPanels.MeantFor import requireOwn
from SAMAutoSegPanels.Options import SliceAxis
from SAMAutoSegPanels.Translation import _
from SAMAutoSegPanels.Wording import asSentence

# A view that is turned further than this shows no slice of the volume.
_MOST_DEGREES = 5.0


class ClickPanel:
    """Turns clicks into requests to the engine and its answers into changes of the segmentation.

    Args:
        editor: the `EmbeddedEditor`, whose selected segment is changed.
        ledgers: a `CurrentLedger`.
    """

    def __init__(self, ui, session, ledgers, editor):
        self._ui = ui
        self._session = session
        self._ledgers = ledgers
        self._editor = editor
        self.confirm = slicer.util.confirmOkCancelDisplay
        self._clicks = ClickSession()
        self._volume = None
        self._tools = ClickTools(self._onPoint, self._onBox, self.letGo)
        self._buttons = {
            ui.addPointButton: POINT,
            ui.removePointButton: POINT,
            ui.boxButton: BOX,
        }
        for button in self._buttons:
            button.connect("toggled(bool)", lambda on, b=button: self._onTool(b, on))
        ui.clearClicksButton.connect("clicked()", self.newObject)

    def refresh(self):
        node = self._session.parameterNode
        hasVolume = node is not None and node.inputVolume is not None
        if hasVolume and node.inputVolume is not self._volume:
            if self._volume is not None:
                self._clicks.clear()
                self._say("")
            self._volume = node.inputVolume
        usable = self._session.ready and hasVolume
        if not usable and any(button.checked for button in self._buttons):
            self.letGo()  # nobody could: the buttons are gray
        for button in self._buttons:
            button.enabled = usable
        self._ui.clearClicksButton.enabled = bool(self._clicks.points or self._clicks.box)

    def newObject(self):
        self._clicks.clear()
        self._say("")
        self.refresh()

    def letGo(self):
        """Put the tools away and forget the clicks."""
        for button in self._buttons:
            button.checked = False
        self._tools.choose("")
        self._clicks.clear()
        self._say("")

    def onLayoutChanged(self):
        self._tools.refreshViews()

    def _onTool(self, button, on):
        if on:
            self._editor.ensure()
            self._editor.letGoOfEffect()
            for other in self._buttons:
                if other is not button:
                    other.checked = False
            self._tools.choose(self._buttons[button])
            self._say(self._hint(button))
        elif not any(other.checked for other in self._buttons):
            self._tools.choose("")
            self._say("")

    def _hint(self, button):
        backbone = self._session.backboneFile()
        if backbone is None:
            return _("Clicks need a SAM: download LiteMedSAM under Model.")
        known = {entry["file_name"]: entry for entry in self._session.library.catalog}
        entry = known.get(backbone.name, {})
        if button is not self._ui.boxButton and not entry.get("takes_points", True):
            return _("{sam} was trained with boxes: a box is more exact than a point.").format(
                sam=entry["title"].split(",")[0]
            )
        return ""

    def _say(self, message):
        self._ui.clickStatusLabel.text = message
        self._ui.clickStatusLabel.visible = bool(message)

    def _onPoint(self, sliceNode, ras):
        sign = 1 if self._ui.addPointButton.checked else -1

        def prompt(layers, geometry, voxel, segmentId):
            number, row, column = voxel
            mask = _maskIn(layers, geometry.stack, number, segmentId)
            return self._clicks.point(row, column, sign, mask)

        self._click(sliceNode, ras, prompt)

    def _onBox(self, sliceNode, one, other):
        def prompt(layers, geometry, voxel, segmentId):
            corners = [geometry.pointFromRAS(ras) for ras in (one, other)]
            rows, columns = geometry.stack.slice_shape
            (r0, c0), (r1, c1) = [
                (min(max(p.row, 0), rows - 1), min(max(p.column, 0), columns - 1)) for p in corners
            ]
            return self._clicks.boxed(r0, c0, r1, c1)

        center = [(a + b) / 2 for a, b in zip(one, other, strict=True)]
        self._click(sliceNode, center, prompt)

    def _click(self, sliceNode, ras, makePrompt):
        """Ask the engine about a click and write its answer; says why where that cannot be."""
        try:
            self._ask(sliceNode, ras, makePrompt)
        except SAMAutoSegError as error:
            self._say(asSentence(error))

    def _ask(self, sliceNode, ras, makePrompt):
        from SAMAutoSegScene.SegmentLayers import SegmentLayers
        from SAMAutoSegScene.SliceGeometry import SliceGeometry, viewedSlice
        from SAMAutoSegScene.VolumeReader import requireReadable

        session = self._session
        volume = session.parameterNode.inputVolume
        requireReadable(volume)
        backbone = session.clickFile()
        if backbone is None:
            raise SAMAutoSegError(_("Clicks need a SAM: download LiteMedSAM under Model."))
        view = viewedSlice(sliceNode, volume)
        if view.degrees > _MOST_DEGREES:
            raise SAMAutoSegError(
                _(
                    "This view is tilted against the image: choose 'Rotate to volume plane' in its"
                    " bar."
                )
            )
        geometry = SliceGeometry(volume, view.plane)
        voxel = geometry.voxelFromRAS(ras)
        if voxel is None:
            raise SAMAutoSegError(_("This is outside of the image."))
        segmentation, segmentId = self._segmentToEdit()
        layers = SegmentLayers(segmentation, geometry.grid)
        place = view.plane, voxel[0], segmentId
        self._clicks.follow(place, layers.stamp(segmentId))
        prompt = makePrompt(layers, geometry, voxel, segmentId)
        params = {"backbone": str(backbone), "axis": view.plane, "slice": voxel[0]}
        params |= {**prompt.params, **session.loading}
        self._say(_("Segmenting..."))

        def onVolume(key):
            params["volume"] = key
            session.client.send(
                "click",
                params,
                on_result=onResult,
                on_error=lambda message, details: onError(message),
                on_cancelled=lambda result: self._say(""),
            )

        def onResult(result):
            try:
                self._write(segmentation, volume, place, prompt, result["mask"])
            except SAMAutoSegError as error:
                self._say(asSentence(error))

        def onError(message):
            if volume.GetScene() is not None:  # else nobody waits for it any more
                self._say(asSentence(message))

        session.volumes.open(volume, onVolume, onError)

    def _write(self, segmentation, volume, place, prompt, answer):
        from SAMAutoSegScene.SegmentWriter import SegmentWriter
        from SAMAutoSegScene.SliceGeometry import emptyStack

        plane, number, segmentId = place
        editorNode, saveUndo = self._editor.of(segmentation)
        writer = SegmentWriter(
            segmentation,
            volume,
            editorNode=editorNode,
            saveUndo=saveUndo,
            ledger=self._ledgers.ledger,
        )
        wanted = prompt.change(answer)
        changed = writer.writeMask(plane, number, wanted, segmentId, prompt.mode)
        if self._clicks.place == place:
            self._clicks.wrote(writer.layers.stamp(segmentId))
        if changed:
            self._say(self._whatElse(plane, writer.ledger))
        else:
            held = _maskIn(writer.layers, emptyStack(writer.layers.grid, plane), number, segmentId)
            self._say(_whyNothing(wanted, held, prompt.mode))
        self.refresh()

    @staticmethod
    def _whatElse(plane, ledger):
        if ledger is None or ledger.plane == plane:
            return ""
        return _(
            "The model works in {plane} slices. Those that this went through are not learned from"
            " until you correct them or mark them as reviewed."
        ).format(plane=SliceAxis(ledger.plane).label().lower())

    def _segmentToEdit(self):
        """The selected segment; a first one is made where there is none."""
        from SAMAutoSegScene.SegmentationOutput import prepareSegmentation

        session = self._session
        volume, node = session.parameterNode.inputVolume, session.parameterNode.outputSegmentation
        if node is not None:
            if self._ledgers.problem:
                raise SAMAutoSegError(self._ledgers.problem)
            requireOwn(node, volume, self.confirm)
        if node is None or not node.GetSegmentation().GetNumberOfSegments():
            model = session.model
            known = [] if model is None else model.structures
            # Named as the model knows it, so that both go into one segment.
            name = known[0] if len(known) == 1 else _("Structure 1")
            node = prepareSegmentation(volume, [structure_named(name, 1)], node).node
            session.parameterNode.outputSegmentation = node
            session.changed.emit()
        return node, self._editor.segmentToEdit(node)


def _maskIn(layers, stack, number, segmentId):
    """A segment in a slice, bool [rows, columns]."""
    from SAMAutoSegScene.SegmentLayers import SegmentsInBox
    from SAMAutoSegScene.SliceGeometry import boxOfSlice, sliceOfBox

    inSlice = SegmentsInBox(layers, boxOfSlice(stack, number))
    return sliceOfBox(inSlice.mask(segmentId), stack)


def _whyNothing(wanted, held, mode):
    """Why a click changed nothing of what the segment holds in the slice."""
    if not wanted.any():
        return _("Nothing changed: the model finds nothing to change there.")
    if mode == ADD and held[wanted].all():
        return _(
            "Nothing changed: all that the model finds there is in the segment already. Take away"
            " what is too much with a negative point or Erase."
        )
    return _("Nothing changed: masking or another segment forbids it.")
