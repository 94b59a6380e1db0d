"""The form against the code: widgets, signals and parameters that are named do exist.

PythonQt tells a wrong signal on the console only, and a wrong widget when it is used first.
"""

import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[2] / "SAMAutoSeg"
SOURCES = [MODULE / "SAMAutoSeg.py", *sorted((MODULE / "SAMAutoSegPanels").glob("*.py"))]
FORM = ElementTree.parse(MODULE / "Resources" / "UI" / "SAMAutoSeg.ui").getroot()
WIDGETS = {w.attrib["name"]: w.attrib["class"] for w in FORM.iter("widget")}

# As declared in the headers of Qt 5.15 and 6, CTK and Slicer. Signals whose only argument has a
# default exist without it too.
BASES = {
    "QPushButton": "QAbstractButton",
    "QToolButton": "QAbstractButton",
    "QCheckBox": "QAbstractButton",
    "ctkCollapsibleButton": "QAbstractButton",
}
SIGNALS = {
    "qMRMLNodeComboBox": {"nodeAddedByUser(vtkMRMLNode*)"},
    "QAbstractButton": {"clicked()", "clicked(bool)", "toggled(bool)"},
    "QComboBox": {"activated(int)", "currentIndexChanged(int)"},
    "QLineEdit": {"textEdited(QString)", "textChanged(QString)"},
    "QListWidget": {"itemChanged(QListWidgetItem*)"},
    "ctkCollapsibleButton": {"contentsCollapsed(bool)"},
}
OF_OBJECTS = {
    "timeout()",  # QTimer
    "triggered()",  # QAction
    "aboutToShow()",  # QMenu
    "activated()",  # QShortcut
    "readyReadStandardOutput()",  # QProcess, as the next three
    "readyReadStandardError()",
    "finished(int,QProcess::ExitStatus)",
    "errorOccurred(QProcess::ProcessError)",
    "canceled()",  # QProgressDialog
    "aboutToQuit()",  # QCoreApplication
    "startupCompleted()",  # qSlicerApplication
    "layoutChanged(int)",  # qMRMLLayoutManager
}


def trees() -> list[tuple[str, ast.Module]]:
    return [(path.name, ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES]


def widget_of(node: ast.AST) -> str | None:
    """The name in `ui.name`, `self.ui.name` and `self._ui.name`."""
    if not isinstance(node, ast.Attribute):
        return None
    owner = node.value
    named = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
    return node.attr if named in ("ui", "_ui") else None


def signals_of(widget_class: str) -> set[str]:
    base = BASES.get(widget_class)
    return SIGNALS.get(widget_class, set()) | (signals_of(base) if base else set())


def test_every_widget_named_in_code_stands_in_the_form() -> None:
    used = {
        (name, file)
        for file, tree in trees()
        for node in ast.walk(tree)
        if (name := widget_of(node)) is not None
    }
    assert len(used) > 40
    assert sorted(entry for entry in used if entry[0] not in WIDGETS) == []


def test_every_widget_that_somebody_can_use_is_used_in_code_or_bound_to_a_parameter() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    bound = {w.attrib["name"] for w in FORM.iter("widget") if parameter_of(w)}
    idle = [
        name
        for name, widget_class in WIDGETS.items()
        if re.search(r"Button|Selector|Edit$|Slider|CheckBox|List$|Table$|ProgressBar", name)
        and not name.endswith("Label")
        and widget_class != "ctkCollapsibleButton"
        and name not in bound
        and f"ui.{name}" not in code
    ]
    assert idle == []


def test_every_signal_that_is_connected_exists_for_its_object() -> None:
    wrong, seen = [], 0
    for file, tree in trees():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr not in ("connect", "disconnect") or len(node.args) < 2:
                continue
            signal = ast.literal_eval(node.args[0])
            seen += 1
            name = widget_of(node.func.value)
            known = signals_of(WIDGETS[name]) if name else OF_OBJECTS | signals_of("QPushButton")
            if signal not in known:
                wrong.append((file, node.lineno, signal))
    assert seen > 30
    assert wrong == []


def parameter_of(widget: ElementTree.Element) -> str | None:
    for prop in widget.findall("property"):
        if prop.attrib["name"] == "SlicerParameterName":
            return prop.findtext("string")
    return None


def test_every_parameter_in_the_form_is_one_of_the_parameter_node_and_the_reverse() -> None:
    tree = ast.parse((MODULE / "SAMAutoSeg.py").read_text(encoding="utf-8"))
    (node,) = [n for n in ast.walk(tree) if getattr(n, "name", "") == "SAMAutoSegParameterNode"]
    declared = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
    bound = {p for w in FORM.iter("widget") if (p := parameter_of(w))}
    assert bound - declared == set()
    assert declared - bound == {"model"}, "the list of models is filled by hand"


def test_scene_widgets_get_the_scene_from_the_form() -> None:
    assert FORM.find("widget").attrib["class"] == "qMRMLWidget"
    wired = {
        c.findtext("receiver")
        for c in FORM.iter("connection")
        if c.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        and c.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }
    scene = {name for name, kind in WIDGETS.items() if kind.startswith("qMRML")} - {"SAMAutoSeg"}
    assert wired == scene and len(scene) >= 3


def test_custom_classes_are_declared_so_that_none_falls_back_to_a_plain_widget() -> None:
    declared = {c.findtext("class") for c in FORM.iter("customwidget")}
    used = {kind for kind in WIDGETS.values() if not kind.startswith("Q")}
    assert used <= declared


def test_names_in_the_form_are_unique() -> None:
    names = [e.attrib["name"] for kind in ("widget", "layout") for e in FORM.iter(kind)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("kind", ["QPushButton", "QToolButton", "QComboBox", "QCheckBox"])
def test_whatever_can_be_pressed_says_what_it_does(kind: str) -> None:
    silent = [
        w.attrib["name"]
        for w in FORM.iter("widget")
        if w.attrib["class"] == kind
        and not any(p.attrib["name"] == "toolTip" for p in w.findall("property"))
    ]
    assert silent == []


def test_sections_stand_in_the_order_of_the_work() -> None:
    sections = [n for n, kind in WIDGETS.items() if kind == "ctkCollapsibleButton"]
    assert sections == [
        "modelCollapsibleButton",
        "segmentCollapsibleButton",
        "correctCollapsibleButton",
        "retrainCollapsibleButton",
    ]


def test_a_long_name_of_a_structure_hides_no_other_one_behind_a_scroll_bar() -> None:
    (structures,) = [w for w in FORM.iter("widget") if w.attrib["name"] == "structuresList"]
    enums = {p.attrib["name"]: p.findtext("enum") for p in structures.findall("property")}
    assert enums["horizontalScrollBarPolicy"] == "Qt::ScrollBarAlwaysOff"
    assert enums["textElideMode"] == "Qt::ElideMiddle"
