"""A model of a given shape with random weights in 4 bits: what speed and memory are measured on without a download."""

from hermes_nb.models.quantized import guard_cpu_gradients, nf4_config
from hermes_nb.roofline import Shape
from hermes_nb.runtime import machine

HEAD = 128  # width of an attention head where the hidden size allows it, as in models of 7B


def random_4bit(shape: Shape, dtype: str | None = None, seed: int = 0):
    """A Mistral-like model of `shape`, random weights, linear layers in NF4, on the machine's device.

    Layers are made and quantized one after another, so that 16-bit weights of one layer exist at a time. `dtype` is
    the arithmetic's (default: the machine's).
    """
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit
    from transformers import MistralConfig, MistralForCausalLM
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    here = machine()
    dtype = getattr(torch, dtype or here.dtype)
    head = HEAD if shape.hidden % HEAD == 0 and shape.kv % HEAD == 0 else shape.kv
    config = MistralConfig(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.hidden // head,
        num_key_value_heads=shape.kv // head, intermediate_size=shape.intermediate, vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied, sliding_window=None, head_dim=head, pad_token_id=0,
    )  # fmt: skip
    quantization = nf4_config(str(dtype).removeprefix("torch."))
    with torch.device("meta"):
        model = MistralForCausalLM(config).to(dtype)
        model = replace_with_bnb_linear(model, modules_to_not_convert=["lm_head"], quantization_config=quantization)
    torch.manual_seed(seed)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            made = torch.empty(parameter.shape, dtype=dtype, device=here.device).normal_(std=0.02)
            if isinstance(module, Linear4bit) and name == "weight":
                made = Params4bit(
                    made, requires_grad=False, quant_type="nf4", compress_statistics=True, quant_storage=torch.uint8,
                    module=module,
                )  # fmt: skip
            else:
                made = torch.nn.Parameter(made if made.dim() > 1 else torch.ones_like(made), requires_grad=False)
            module.register_parameter(name, made.to(here.device) if isinstance(made, Params4bit) else made)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    model = model.to(here.device)
    model.is_loaded_in_4bit, model.config.quantization_config = True, quantization
    return guard_cpu_gradients(model.eval())
