"""Your own prompt and answers: two words of the tokenizer are the verdicts, the score is their logit difference."""

from prorank import Reranker
from prorank.prompts.prompt import Prompt

HELPFUL = Prompt(
    name="helpful",
    segments=("question: {query}", "\n", "answer: {document}", "\n", "Is the answer helpful?"),
    answers=("no", "yes"),  # from worst to best; each must be one token
)

if __name__ == "__main__":
    # "embedded" is a sentence encoder that never saw this prompt: the scores are zero-shot, and poor until trained.
    reranker = Reranker("embedded", prompt=HELPFUL)
    for result in reranker.rank("when do owls hunt", ["The moon is far.", "Owls hunt mice at night."]):
        print(result)
