"""The sample images, fetched by the library in a process of its own and loaded."""

import json

import slicer

from SAMAutoSegLib.engine.transport import engine_environment
from SAMAutoSegPanels.SlicerPython import pythonExecutable

# Prints the path of the image as the last line.
_FETCH = """
import json, sys
from SAMAutoSegLib.demo.sample import fetch_sample
print(json.dumps(str(fetch_sample(sys.argv[1]).image)))
"""


def loadSample(name, nodeName):
    """A volume node of a sample of `Resources/SampleData.json`; the interface stays alive."""
    lines = []
    process = slicer.util.launchConsoleProcess(
        [pythonExecutable(), "-c", _FETCH, name],
        useStartupEnvironment=False,
        updateEnvironment=engine_environment(),
    )
    slicer.util.logProcessOutput(process, logCallback=lines.append)
    return slicer.util.loadVolume(json.loads(lines[-1]), {"name": nodeName})
