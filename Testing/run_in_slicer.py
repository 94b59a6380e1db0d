"""Runs the module's test inside Slicer and ends it with 0 or 1; for `make test-slicer`."""

import sys
import traceback
import unittest

import slicer


def main() -> int:
    try:
        # Slicer starts with modules that failed to load; here that is a failure.
        slicer.util.selectModule("SAMAutoSeg")
        import SAMAutoSeg

        suite = unittest.TestLoader().loadTestsFromTestCase(SAMAutoSeg.SAMAutoSegTest)
        result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
        # The test skips itself where PyTorch is missing; here it is to be run.
        whole = result.testsRun and not result.skipped
        return 0 if whole and result.wasSuccessful() else 1
    except Exception:
        traceback.print_exc()
        return 1


slicer.util.exit(main())
