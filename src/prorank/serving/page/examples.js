// The three built-in examples, in which shared words alone lead BM25 astray, and empty fields.

export const EXAMPLES = {
  question: {
    query: "What are the symptoms of influenza?",
    format: "lines",
    text: [
      "What are viruses? Influenza is caused by viruses of four types, A to D.",
      "The symptoms of hay fever are sneezing, itching eyes and a runny nose.",
      "Influenza vaccines are made anew each year.",
      "Flu usually begins with fever, chills, a dry cough, headache and aching muscles.",
      "Symptoms of measles are fever and a rash.",
      "The influenza pandemic of 1918 killed about fifty million people.",
      "The symptoms of influenza include fever, cough, sore throat and tiredness.",
      "Bread rises because yeast gives off carbon dioxide.",
    ].join("\n"),
  },
  code: {
    query: "remove duplicates from a list",
    format: "paragraphs",
    text: `def remove_file(path):
    """Remove a file from a list of files."""
    path.unlink()

def unique(values):
    return list(dict.fromkeys(values))

def remove_spaces(text):
    """Remove spaces from a text."""
    return text.replace(" ", "")

def distinct(items):
    seen = set()
    return [item for item in items if not (item in seen or seen.add(item))]

def from_list(numbers):
    """Make an array from a list."""
    return numpy.array(numbers)

def circle_area(radius):
    return math.pi * radius ** 2

def load_settings(path):
    with open(path) as handle:
        return json.load(handle)`,
  },
  faq: {
    query: "I forgot my password, how do I get back in?",
    format: "paragraphs",
    text: `How do I get my money back? We refund you within thirty days of your order.

How do I reset my password? Click "Forgotten password" on the sign-in page, and we will send you a link to set a new one.

Where do I get a copy of my invoice? Open Billing and choose the month.

I can't log in to my account. Ask for a reset link on the sign-in page; it is valid for one hour.

How do I get back to the old design? Open Settings, then Appearance, and choose Classic.

How do I send an item back? Print the label in My orders and hand in the parcel at any post office.

Which browsers are supported? The last two versions of Chrome, Edge, Firefox and Safari.`,
  },
  own: { query: "", format: "detect", text: "" },
};
