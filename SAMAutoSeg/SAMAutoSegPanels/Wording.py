"""Words that need no explanation: messages, numbers and lists."""

from SAMAutoSegPanels.Translation import _


def asSentence(message):
    """A message or an error, which begin in lower case, as it is shown alone."""
    text = str(message)
    return text[:1].upper() + text[1:]


def withNotes(text, notes):
    """A sentence and further ones, which the library gives without capitals and full stops."""
    return " ".join([text, *(f"{asSentence(note).rstrip('.')}." for note in notes)])


def durationWords(seconds):
    """A duration as a person would say it: rounded, and never more exact than an estimate is."""
    if seconds < 8:
        return _("a few seconds")
    if seconds < 55:
        return _("about {count} s").format(count=5 * round(seconds / 5))
    minutes = round(seconds / 60)
    if minutes < 2:
        return _("about a minute")
    if minutes < 60:
        return _("about {count} min").format(count=minutes)
    hours, rest = divmod(minutes, 60)
    if rest < 5:
        return _("about {count} h").format(count=hours)
    return _("about {hours} h {minutes} min").format(hours=hours, minutes=5 * (rest // 5))


def sizeWords(count):
    """A number of bytes, as file managers show it."""
    if count < 1e6:
        return _("{size} kB").format(size=max(1, round(count / 1e3)))
    if count < 1e9:
        return _("{size} MB").format(size=round(count / 1e6))
    return _("{size} GB").format(size=f"{count / 1e9:.1f}")


def listWords(names, most=4):
    """Names with commas; of a long list the first ones and how many more there are."""
    names = list(names)
    if len(names) <= most:
        return ", ".join(names)
    return _("{names} and {count} more").format(
        names=", ".join(names[: most - 1]), count=len(names) - most + 1
    )


def shortened(name, most=28):
    """A name that fits a button: of a long one the beginning and the end."""
    if len(name) <= most:
        return name
    end = most // 3
    return f"{name[: most - end - 1].rstrip()}…{name[-end:].lstrip()}"


def sliceWords(numbers):
    """Slice numbers with runs drawn together, as in '3, 7-9'."""
    runs = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
