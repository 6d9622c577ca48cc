import pytest

from app.commands.console import Console
from domain.health import BackendHealth, BackendState
from domain.roles import Role


@pytest.mark.parametrize("write", [Console.say, Console.warn, Console.fail])
def test_lines_go_to_standard_error_as_they_are(write, capsys):
    # rich would interpret square brackets as markup.
    write(Console(), "a [red]line[/] of " + "x" * 300)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("a [red]line[/] of " + "x" * 300 + "\n")


@pytest.mark.parametrize("state", BackendState)
def test_a_change_of_state_is_one_line(state, capsys):
    health = BackendHealth(state=state, reason="Because [so].", model="the-model", since="now")
    Console().health_changed(Role.GENERATE, health)
    (line,) = capsys.readouterr().err.splitlines()
    assert all(part in line for part in ("generate", state, "the-model", "Because [so]."))


def test_a_role_may_have_no_reason_and_no_model(capsys):
    health = BackendHealth(state=BackendState.READY, reason=None, model=None, since="now")
    Console().health_changed(Role.EMBED, health)
    assert "None" not in capsys.readouterr().err


def test_without_a_terminal_a_step_is_printed_once(capsys):
    with Console().progress() as progress:
        for share in (0.0, 0.5, 1.0):
            progress("fetching [1]", share)
        progress("unpacking", None)
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert [lines.count(step) for step in ("fetching [1]", "unpacking")] == [1, 1]
