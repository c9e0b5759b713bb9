"""Where references to Python names lead.

Annotations name the module that defines a class, `dreamsim_guidance.metric.dreamsim.DreamSim`; readers import
`dreamsim_guidance.DreamSim`, and that is where it is documented. A reference leads to that place.

In the API reference, a type that is not documented (of torch, of another library, or private) is shown without a link. In
pages written by hand, a reference that leads nowhere stays an error.
"""

from __future__ import annotations

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element) -> Element | None:
    """The link to the public name, plain text for an undocumented type in the API reference, or None: an error."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].rpartition(".")[2]
    domain = env.domains.python_domain
    places = sorted(full for full in domain.objects if full.rpartition(".")[2] == name)
    if len(places) == 1:
        return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], places[0], node, content)
    return content if node["refdoc"].startswith("api/") else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
