"""Run alone: python -m pytest tests/test_course.py"""

import nbformat
import pytest

from hermes_nb import course
from hermes_nb.errors import FileProblem


def notebook(*cells):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(course, "FOLDER", tmp_path / "notebooks")
    monkeypatch.setattr(course.find, "__defaults__", (tmp_path / "notebooks",))
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def test_notebooks_leave_outputs_html_and_a_table(folder, capsys):
    """What a newcomer looks at after `make course`."""
    nbformat.write(notebook("print('result: all well')", "1 + 1"), folder / "notebooks" / "00_a.ipynb")
    assert course.run([], folder / "out") == 0
    assert {p.name for p in (folder / "out").iterdir()} == {"00_a.ipynb", "00_a.html"}
    out = capsys.readouterr().out
    assert "[1/1] 00_a done" in out
    assert "all well" in out
    assert "peak GB" in out


def test_a_failing_cell_stops_the_course_by_name(folder, capsys):
    """Notebook, cell and error; the notebooks after it are not run."""
    nbformat.write(notebook("x = 1", "x / 0"), folder / "notebooks" / "00_a.ipynb")
    nbformat.write(notebook("print('never')"), folder / "notebooks" / "01_b.ipynb")
    assert course.run([], folder / "out") == 1
    out = capsys.readouterr().out
    assert "FAILED 00_a.ipynb, code cell 2 (x / 0): ZeroDivisionError" in out
    assert "01_b" not in out


def test_an_unknown_notebook_is_named(folder):
    """A typo must not run all."""
    nbformat.write(notebook("1"), folder / "notebooks" / "00_a.ipynb")
    with pytest.raises(FileProblem, match="there are 00_a"):
        course.find(["00_b"], folder / "notebooks")


def test_outputs_are_normalised():
    """Saved widget state makes a host refuse the notebook; times make every diff large."""
    made = notebook("1", "2")
    made.metadata["widgets"] = {"x": 1}
    made.cells[0].metadata = {"execution": {"start": "now"}, "tags": ["keep"]}
    made.cells[0].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output("execute_result", {"text/plain": "1"}, execution_count=77),
    ]
    course.normalise(made)
    assert set(made.metadata) == {"kernelspec", "hermes_nb"}
    assert made.cells[0].metadata == {"tags": ["keep"]}
    assert [o.output_type for o in made.cells[0].outputs] == ["execute_result"]
    assert [c.execution_count for c in made.cells] == [1, 2] == [made.cells[0].outputs[0].execution_count, 2]
    assert made.metadata["hermes_nb"]["code"] == course.digest(made) != course.digest(notebook("1", "3"))


def exercise(solution):
    """A notebook with one exercise and its folded solution."""
    made = notebook("x = 1", "answer = ...\nprint('not solved yet' if answer is ... else f'solved: {answer}')")
    made.cells[1].metadata["tags"] = ["exercise"]
    fold = f"<details><summary>Solution</summary>\n\n```python\n{solution}\n```\n\n</details>"
    made.cells.append(nbformat.v4.new_markdown_cell(fold, metadata={"tags": ["solution"]}))
    return made


def test_solutions_run_when_asked_for(folder, monkeypatch, capsys):
    """HERMES_SOLUTIONS=1 puts the folded solution into its cell; one that does not solve its exercise fails."""
    path = folder / "notebooks" / "00_a.ipynb"
    nbformat.write(exercise("answer = 42\nprint(f'solved: {answer}')"), path)
    assert course.run([], folder / "out") == 0
    assert "not solved yet" in (folder / "out" / "00_a.ipynb").read_text()
    monkeypatch.setenv("HERMES_SOLUTIONS", "1")
    assert course.run([], folder / "out") == 0
    assert "solved: 42" in (folder / "out" / "00_a.ipynb").read_text()
    nbformat.write(exercise("print('nearly')"), path)
    assert course.run([], folder / "out") == 1
    assert "does not solve it" in capsys.readouterr().out
    with pytest.raises(FileProblem, match="unset it"):
        course.run([], folder / "out", in_place=True)


def test_a_live_widget_is_left_out_and_its_picture_stays():
    """A widget view without its kernel shows an error where a picture could stand."""
    made = notebook("1")
    data = {course.WIDGET: {"model_id": "x"}, "image/png": "abc", "text/plain": "a figure"}
    made.cells[0].outputs = [nbformat.v4.new_output("display_data", data)]
    course.normalise(made)
    assert set(made.cells[0].outputs[0].data) == {"image/png", "text/plain"}
