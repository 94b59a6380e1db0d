"""The segments of a segmentation, with a check mark at those that are to be learned."""

import qt

_GREATEST_HEIGHT = 110


class StructureList:
    """Follows a segmentation; what was unchecked stays so when another one was shown meanwhile.

    Args:
        onChecked: called when the user has changed a check mark.
    """

    def __init__(self, ui, onChecked):
        self._widget = ui.structuresList
        self._onChecked = onChecked
        self._unchecked = set()
        self._shown = None
        ui.structuresList.connect("itemChanged(QListWidgetItem*)", self._onItemChanged)

    def checked(self):
        """Segment id and name of the checked ones."""
        items = [self._widget.item(row) for row in range(self._widget.count)]
        return [
            (item.data(qt.Qt.UserRole), item.text())
            for item in items
            if item.checkState() == qt.Qt.Checked
        ]

    def show_(self, segmentationNode):
        """Show the segments as they are now; None: there are none."""
        nodeId, segments = "", []
        if segmentationNode is not None:
            nodeId, segmentation = segmentationNode.GetID(), segmentationNode.GetSegmentation()
            for segmentId in segmentation.GetSegmentIDs():
                segment = segmentation.GetSegment(segmentId)
                segments.append((segmentId, segment.GetName(), tuple(segment.GetColor())))
        if (nodeId, segments) == self._shown:
            return
        self._shown = nodeId, segments
        widget = self._widget
        blocked = widget.blockSignals(True)
        widget.clear()
        for segmentId, name, color in segments:
            item = qt.QListWidgetItem(_swatch(color), name)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
            checked = (nodeId, segmentId) not in self._unchecked
            item.setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)
            item.setData(qt.Qt.UserRole, segmentId)
            widget.addItem(item)
        widget.blockSignals(blocked)
        height = widget.sizeHintForRow(0) * len(segments) + 6 if segments else 0
        widget.setFixedHeight(min(_GREATEST_HEIGHT, height))

    def forget(self):
        """The scene is closed: ids of its nodes and segments come again."""
        self._unchecked.clear()

    def _onItemChanged(self, item):
        key = self._shown[0], item.data(qt.Qt.UserRole)
        if item.checkState() == qt.Qt.Checked:
            self._unchecked.discard(key)
        else:
            self._unchecked.add(key)
        self._onChecked()


def _swatch(color):
    pixmap = qt.QPixmap(12, 12)
    pixmap.fill(qt.QColor.fromRgbF(*color))
    return qt.QIcon(pixmap)
