"""From a trained network to the files that a device runs, checked in the runtime that will run them (SPEC §10). The
package can be called: `tunas.export(config)` is `tunas.export.export.export(config)`."""

from tunas.packages import make_callable

make_callable(__name__, "tunas.export.export", "export")
