"""A strip with one cell a slice: its state, how sure the model is, and where the user looks."""

import qt

from SAMAutoSegPanels import SliceCells
from SAMAutoSegPanels.Translation import _

_HEIGHT = 30
_DOUBT_HEIGHT = 5
_GAP_FROM = 5  # pixels a slice: below that, cells touch


class SliceStrip(qt.QWidget):
    """Painted from `states`; a click or a drag tells `onSlice` the slice below it."""

    def __init__(self, onSlice, parent=None):
        qt.QWidget.__init__(self, parent)
        self._onSlice = onSlice
        self._states = []
        self._doubts = {}
        self._current = None
        self._instead = ""
        self.setFixedHeight(_HEIGHT)
        self.setCursor(qt.QCursor(qt.Qt.PointingHandCursor))
        self.toolTip = _(
            "One cell for each slice: gray untouched, blue from the model, light blue from a model"
            " and loaded without what was corrected, orange corrected by you, green reviewed, dark"
            " excluded. The red line below grows where the model is unsure. Click to go there."
        )

    def show_(self, states, doubts, current, instead=""):
        """Show these, or the words ``instead`` where there is none; draws only what differs."""
        if instead != self._instead:
            self._instead = instead
            self.update()
        now = list(states), dict(doubts), current
        if now != (self._states, self._doubts, self._current):
            self._states, self._doubts, self._current = now
            self.update()

    def paintEvent(self, event):
        painter = qt.QPainter(self)
        width = self.width
        top, bottom = 4, _HEIGHT - _DOUBT_HEIGHT - 3
        if not self._states:
            painter.setPen(self.palette.color(qt.QPalette.Disabled, qt.QPalette.WindowText))
            painter.drawText(qt.QRect(0, 0, width, _HEIGHT), qt.Qt.AlignCenter, self._instead)
            painter.end()
            return
        gap = 1 if width // len(self._states) >= _GAP_FROM else 0
        for cell in SliceCells.cells(width, self._states, self._doubts):
            across = max(cell.right - cell.left - gap, 1)
            color = qt.QColor(*SliceCells.COLORS[cell.state])
            painter.fillRect(qt.QRect(cell.left, top, across, bottom - top), color)
            if cell.doubt:
                height = max(1, round(cell.doubt * _DOUBT_HEIGHT))
                red = qt.QColor(214, 72, 60)
                painter.fillRect(qt.QRect(cell.left, bottom + 1, across, height), red)
        self._paintCurrent(painter, width, top, bottom)
        painter.end()

    def _paintCurrent(self, painter, width, top, bottom):
        count = len(self._states)
        if self._current is None or not 0 <= self._current < count:
            return
        left = self._current * width // count
        across = max((self._current + 1) * width // count - left, 3)
        pen = qt.QPen(self.palette.color(qt.QPalette.WindowText))
        pen.setWidth(2)
        painter.setPen(pen)
        painter.drawRect(qt.QRect(left, top - 2, across, bottom - top + 3))

    def mousePressEvent(self, event):
        self._goTo(event)

    def mouseMoveEvent(self, event):
        self._goTo(event)

    def _goTo(self, event):
        number = SliceCells.sliceAt(event.pos().x(), self.width, len(self._states))
        if number is not None and number != self._current:
            self._onSlice(number)
