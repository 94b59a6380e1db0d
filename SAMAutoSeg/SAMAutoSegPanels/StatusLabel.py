"""How a panel says what it is doing, or why it cannot."""


def showStatus(label, text, failed=False):
    """Show a line, in bold where something went wrong; no line where there is nothing to say."""
    font = label.font
    font.setBold(failed)
    label.setFont(font)
    label.text = text
    label.visible = bool(text)
