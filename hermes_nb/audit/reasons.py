"""Every reason for which the audit drops a row, and every warning it gives. Lesson: 01_preference_data."""

# dropped: the row would teach something false, or nothing
REASONS = {
    "roles": "turns must be [system], user, assistant, ..., each of a known role",
    "repeated role": "two turns in a row by the same speaker",
    "last turn": "a prompt must end with the user, a conversation with the assistant",
    "empty prompt": "no text to answer",
    "empty answer": "nothing to learn from",
    "identical answers": "chosen equals rejected: the loss stays ln 2",
    "broken characters": "a lone surrogate or a NUL, which no tokenizer or no file survives",
    "control token in text": "the tokenizer would turn this text into a control id, such as the end of a turn",
    "template in text": "a conversation that another template has rendered, inside a message: ours would go around it",
    "duplicate": "the same row again: it would count twice",
    "contradiction": "the same two answers the other way round: one of the two labels is wrong",
    "also held out": "the same question is held out: what is measured on it would be remembered, not learned",
    "in the benchmark": "words of a benchmark question: its score would be remembered, not earned",
    "render unlike generation": "the trained text of the prompt is not what generation starts from",
    "prompt not a prefix": "the answer's first blanks merge with the prompt: trained on what is never generated from",
    "BOS doubled": "two start tokens in front; generation has at most one",
    "BOS not printed": "a start token that the template does not print, so that generation has none",
    "stop token untrained": "the template leaves the stop token out of what is trained: no answer ever learns to end",
    "stop token not last": "the last trained token is not the stop token, so the end is never learned as such",
    "stop token doubled": "two stop tokens: the model learns to go on after the first",
    "prompt too long": "the prompt alone fills max_length; TRL would drop the row silently",
    "stop token cut": "the answer is cut at max_length and would be trained without its stop token",
}

# kept, but said
WARNINGS = {
    "near-identical answers": "chosen and rejected share nearly all words: little is left to learn",
    "near duplicate": "nearly the same row stands earlier in the set",
    "near a held-out row": "nearly the same question is held out; read the two, and drop one",
    "near the benchmark": "nearly a benchmark question; read the two",
    "template marks in text": "text such as ### Instruction or <|user|>: part of a rendered conversation?",
    "length tells the label": "a rule that only compares lengths finds chosen too often",
    "words tell the label": "a few words give chosen away: the model can win without reading",
}
SET_WARNINGS = ("length tells the label", "words tell the label")  # of the set as a whole, not of single rows
