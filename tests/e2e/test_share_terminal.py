"""What holds for mount-overlay in a terminal holds in a shared session: the same tests once more."""

import pytest
from e2e.test_mount import (  # noqa: F401
    ended,
    say,
    test_end_of_input,
    test_interrupt,
    test_names_in_the_prompt,
    test_own_bashrc_does_not_hide_the_prompt,
    test_prompt_shows_the_directory,
    test_read_only,
    test_stop_and_continue,
    test_window_size,
)
from e2e.test_mount import mount as alone  # noqa: F401
from e2e.test_share import keepers, local  # noqa: F401


@pytest.fixture
def mount(local, alone, environ):  # noqa: F811
    """Return a function that starts mount-overlay in a terminal, its overlays shared."""
    environ["OVERLAY_LAUNCH_SHARE"] = "read"

    def mount(*arguments, prompt=None):
        words = [word + ":ro" if word.endswith(".ext3") else word for word in arguments]
        return alone(*words, prompt=prompt)

    yield mount
    assert keepers(local)


def test_two_terminals(mount, overlay):
    """Who came first leaves, and the other goes on in the session."""
    overlay("env.ext3")
    first = mount("-o", "env.ext3", prompt="[env.ext3] ")
    second = mount("-o", "env.ext3", prompt="[env.ext3] ")
    line = "readlink /proc/self/ns/mnt"
    assert say(first, line, "[env.ext3] ") == say(second, line, "[env.ext3] ")
    assert say(first, "tty", "[env.ext3] ") != say(second, "tty", "[env.ext3] ")
    first.sendline("exit 3")
    assert ended(first) == 3
    assert say(second, "ls -d /usr; echo $?", "[env.ext3] ").split() == ["/usr", "0"]
    second.sendline("exit 4")
    assert ended(second) == 4
