"""The choices of the module's lists, with their names for the engine and for the user.

The scene stores the members' names, which therefore never change.
"""

from enum import Enum

from SAMAutoSegPanels.Translation import _


class SliceAxis(Enum):
    MODEL = ""
    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"

    def label(self):
        return {
            SliceAxis.MODEL: _("As the model was trained"),
            SliceAxis.AXIAL: _("Axial"),
            SliceAxis.CORONAL: _("Coronal"),
            SliceAxis.SAGITTAL: _("Sagittal"),
        }[self]


class GrayLevels(Enum):
    MODEL = ""
    VIEW = "view"
    ABDOMEN = "ct:abdomen"
    LIVER = "ct:liver"
    MEDIASTINUM = "ct:mediastinum"
    LUNG = "ct:lung"
    BONE = "ct:bone"
    BRAIN = "ct:brain"
    PERCENTILE = "percentile:0.5,99.5"

    def label(self):
        return {
            GrayLevels.MODEL: _("As the model was trained"),
            GrayLevels.VIEW: _("As shown in the slice views"),
            GrayLevels.ABDOMEN: _("CT, abdomen"),
            GrayLevels.LIVER: _("CT, liver"),
            GrayLevels.MEDIASTINUM: _("CT, mediastinum"),
            GrayLevels.LUNG: _("CT, lung"),
            GrayLevels.BONE: _("CT, bone"),
            GrayLevels.BRAIN: _("CT, brain"),
            GrayLevels.PERCENTILE: _("MR and others, full range"),
        }[self]


class Precision(Enum):
    AUTOMATIC = ""
    FULL = "float32"
    HALF = "bfloat16"

    def label(self):
        return {
            Precision.AUTOMATIC: _("Automatic"),
            Precision.FULL: _("Full (32 bit)"),
            Precision.HALF: _("Half (16 bit)"),
        }[self]


class Refinement(Enum):
    """How often the prediction prompts the SAM, and the pass to keep; None for the best by rule."""

    OFF = (0, None)
    BEST_OF_TWO = (1, None)
    BEST_OF_FOUR = (3, None)
    SECOND = (1, 1)
    THIRD = (2, 2)
    FOURTH = (3, 3)

    def label(self):
        return {
            Refinement.OFF: _("Off"),
            Refinement.BEST_OF_TWO: _("Once, where that is better"),
            Refinement.BEST_OF_FOUR: _("Up to three times, where that is better"),
            Refinement.SECOND: _("Keep the second pass"),
            Refinement.THIRD: _("Keep the third pass"),
            Refinement.FOURTH: _("Keep the fourth pass"),
        }[self]


class Method(Enum):
    BLO_SAM = "blo-sam"
    AUTO_SAM = "auto-sam"
    SAM_SP = "sam-sp"
    WE_SAM = "we-sam"
    HEATMAP = "heatmap"
    JOINT = "joint"

    def label(self):
        return {
            Method.BLO_SAM: _("BLO-SAM, for few slices"),
            Method.AUTO_SAM: _("AutoSAM, a head without prompt"),
            Method.SAM_SP: _("SAM-SP, prompts itself"),
            Method.WE_SAM: _("WeSAM, to a new scanner by rough paint"),
            Method.HEATMAP: _("Heatmap, finds each of many"),
            Method.JOINT: _("Plain fine-tuning"),
        }[self]


class Budget(Enum):
    QUICK = "quick"
    STANDARD = "standard"
    THOROUGH = "thorough"

    def label(self):
        return {
            Budget.QUICK: _("Quick"),
            Budget.STANDARD: _("Standard"),
            Budget.THOROUGH: _("Thorough"),
        }[self]
